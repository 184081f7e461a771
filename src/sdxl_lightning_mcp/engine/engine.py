"""The loop that owns one device: admit -> step -> finish, for ever."""

import logging
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
                yield Admitted(run_id, self.estimator and self.estimator.seconds(parameters))
                self.active.append(self.sdxl.prepare(run_id, parameters))
            except Exception as error:
                yield from self._recover(run_id, parameters, error)

    def step(self) -> Iterator[RunEvent]:
        """One UNet call for the oldest sample and those that can share it."""
        if not self.active:
            return
        key = self.active[0].batch_key
        together = [sample for sample in self.active if sample.batch_key == key]
        try:
            self.sdxl.denoise(together)
        except Exception as error:
            self.active = [sample for sample in self.active if sample not in together]
            for sample in together:
                yield from self._recover(sample.run_id, sample.parameters, error, sample)
            return
        yield from (Stepped(sample.run_id, sample.step) for sample in together)

    def finish(self) -> Iterator[RunEvent]:
        """Decodes what is denoised, one picture at a time, so that none waits for another."""
        ready = [sample for sample in self.active if sample.denoised]
        self.active = [sample for sample in self.active if not sample.denoised]
        for sample in ready:
            try:
                picture = self.sdxl.decode(sample)
                image = encode(picture, sample.parameters, datetime.now(UTC), sample.notes)
                yield Finished(sample.run_id, image)
            except Exception as error:
                yield from self._recover(sample.run_id, sample.parameters, error, sample)

    def _recover(
        self, run_id: str, parameters: Parameters, error: Exception, sample: Sample | None = None
    ) -> Iterator[RunEvent]:
        """Begins a run anew where memory ran out and less can be held; else it has failed.

        One run's failure must not stop the loop for the others.
        """
        if isinstance(error, SdxlLightningError):
            yield Failed(run_id, error)
            return
        again = sample is None or not sample.second_try
        if is_out_of_memory(error) and again and self.sdxl.step_down():
            try:
                anew = self.sdxl.prepare(run_id, parameters)
            except Exception:
                log.exception("run %s cannot be begun anew", run_id)
                yield _failed(run_id, error)
                return
            anew.second_try = True
            anew.notes.append(
                "The device ran out of memory; the picture was begun anew with less on it "
                f"({self.sdxl.tuning.tier})."
            )
            self.active.append(anew)
            yield Stepped(run_id, 0)
            return
        yield _failed(run_id, error)


def _failed(run_id: str, error: Exception) -> Failed:
    log.error("run %s failed", run_id, exc_info=error)
    if is_out_of_memory(error):
        return Failed(
            run_id,
            RunFailedError(
                "The device's memory does not suffice for this picture. Try a smaller size, "
                "--vae tiny, or close what else uses the device."
            ),
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Failed(run_id, RunFailedError(f"The run failed on the device: {reason}."))
