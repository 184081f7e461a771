"""The loop that owns one device: admit -> step -> finish, for ever."""

import logging
import traceback
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime

from sdxl_lightning_mcp.engine.estimate import Estimator
from sdxl_lightning_mcp.engine.memory import is_out_of_memory
from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.image import encode
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Admitted, Canceled, Failed, Finished, RunEvent, Stepped

log = logging.getLogger(__name__)


class Engine:
    """Carries out runs on one device; several can be under way, each at its own step.

    `max_batch` samples at most share a UNet call. With 1, every picture is computed alone and is
    bitwise repeatable; with more, a picture equals the one made alone up to rounding. An
    `estimator` tells beforehand how long a run will take.
    """

    def __init__(self, sdxl: Sdxl, max_batch: int = 1, estimator: Estimator | None = None) -> None:
        self.sdxl = sdxl
        self.max_batch = max_batch
        self.estimator = estimator
        self.waiting: deque[tuple[str, Parameters]] = deque()
        self.active: list[Sample] = []
        # Runs whose first try ran out of memory.
        self.second_tries: set[str] = set()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self.active

    def submit(self, run_id: str, parameters: Parameters) -> None:
        """Puts a run at the end of the line; it is begun between two steps."""
        self.waiting.append((run_id, parameters))

    def cancel(self, run_id: str) -> Iterator[RunEvent]:
        """Lets go of a run between two steps; says so if it was here."""
        before = len(self.waiting) + len(self.active)
        self.waiting = deque(item for item in self.waiting if item[0] != run_id)
        self.active = [sample for sample in self.active if sample.run_id != run_id]
        if len(self.waiting) + len(self.active) < before:
            yield Canceled(run_id)

    def turn(self) -> Iterator[RunEvent]:
        """One turn of the loop; says what happened as it happens."""
        yield from self.admit()
        yield from self.step()
        yield from self.finish()

    def admit(self) -> Iterator[RunEvent]:
        """Begins with runs that wait, while the batch has room."""
        while self.waiting and len(self.active) < self.max_batch:
            run_id, parameters = self.waiting.popleft()
            try:
                if run_id not in self.second_tries:
                    yield Admitted(run_id, self.estimator and self.estimator.seconds(parameters))
                sample = self.sdxl.prepare(run_id, parameters)
            except Exception as error:
                caught = error
            else:
                if run_id in self.second_tries:
                    sample.notes.append(
                        "The device ran out of memory; the picture was begun anew with less on it "
                        f"({self.sdxl.tuning.tier})."
                    )
                self.active.append(sample)
                continue
            yield from self._recover([(run_id, parameters)], caught)

    def step(self) -> Iterator[RunEvent]:
        """One UNet call for the oldest sample and those that can share it."""
        if not self.active:
            return
        key = self.active[0].batch_key
        together = [sample for sample in self.active if sample.batch_key == key]
        try:
            self.sdxl.denoise(together)
        except Exception as error:
            caught = error
        else:
            yield from (Stepped(sample.run_id, sample.step) for sample in together)
            return
        self.active = [sample for sample in self.active if sample not in together]
        yield from self._recover([(one.run_id, one.parameters) for one in together], caught)

    def finish(self) -> Iterator[RunEvent]:
        """Decodes what is denoised, one picture at a time, so that none waits for another."""
        ready = [sample for sample in self.active if sample.denoised]
        self.active = [sample for sample in self.active if not sample.denoised]
        for sample in ready:
            try:
                picture = self.sdxl.decode(sample)
                image = encode(picture, sample.parameters, datetime.now(UTC), sample.notes)
            except Exception as error:
                caught = error
            else:
                self.second_tries.discard(sample.run_id)
                yield Finished(sample.run_id, image)
                continue
            yield from self._recover([(sample.run_id, sample.parameters)], caught)

    def _recover(self, runs: list[tuple[str, Parameters]], error: Exception) -> Iterator[RunEvent]:
        """Begins runs anew, once, where memory ran out and less can be held; else they failed.

        One run's failure must not stop the loop for the others.
        """
        failure = _failure(error)
        # Its frames hold the weights and activations that have to go before less can be held.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        anew: list[tuple[str, Parameters]] = []
        if is_out_of_memory(error):
            anew = [run for run in runs if run[0] not in self.second_tries]
            if anew and not self.sdxl.held.step_down():
                anew = []
        for run in runs:
            if run in anew:
                yield Stepped(run[0], 0)
            else:
                self.second_tries.discard(run[0])
                yield Failed(run[0], failure)
        self.second_tries |= {run_id for run_id, _ in anew}
        self.waiting.extendleft(reversed(anew))


def _failure(error: Exception) -> SdxlLightningError:
    """An error as the person is told it; what they are not told goes to the log."""
    if isinstance(error, SdxlLightningError):
        return error
    # As text: a record that kept the traceback would keep what the traceback holds.
    log.error("a run failed\n%s", "".join(traceback.format_exception(error)))
    if is_out_of_memory(error):
        return RunFailedError(
            "The device's memory does not suffice for this picture. Try a smaller size, "
            "--vae tiny, or close what else uses the device."
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return RunFailedError(f"The run failed on the device: {reason}.")
