"""The loop that owns one device: admit -> step -> finish, for ever."""

import logging
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from sdxl_lightning_mcp.engine.estimate import Estimator
from sdxl_lightning_mcp.engine.memory import is_out_of_memory
from sdxl_lightning_mcp.engine.policy import BatchSizes, next_call
from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.image import GeneratedImage, encode
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Admitted, Canceled, Failed, Finished, RunEvent, Stepped

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Entry:
    """A run that is with the engine; `sample` is there once it is begun."""

    turn: tuple[int, int]
    run_id: str
    parameters: Parameters
    sample: Sample | None = None
    # Whether the first try ran out of memory.
    second_try: bool = False
    # The picture on its way into a JPEG, beside the device's next steps.
    encoding: Future[GeneratedImage] | None = None

    @property
    def size(self) -> tuple[str, int, int]:
        """What must agree for a shared UNet call, as far as it is known before it is begun."""
        return (self.parameters.checkpoint, self.parameters.width, self.parameters.height)


class Engine:
    """Carries out runs on one device; several can be under way, each at its own step.

    `max_batch` samples at most share a UNet call, as many as the device's tuning says unless told,
    and no more than are worth it. With 1, every picture is computed alone; with more, a picture
    equals the one made alone up to rounding. An `estimator` tells beforehand how long a run will
    take. Pictures come with a preview of at most `preview_bytes`; without one, where that is None.
    """

    def __init__(
        self,
        sdxl: Sdxl,
        max_batch: int | None = None,
        estimator: Estimator | None = None,
        preview_bytes: int | None = None,
    ) -> None:
        self.sdxl = sdxl
        self.max_batch = max_batch or sdxl.tuning.together
        self.estimator = estimator
        self.preview_bytes = preview_bytes
        self._sizes = BatchSizes(self.max_batch)
        self._way = sdxl.held.way
        self._runs: list[_Entry] = []
        self._arrivals = count()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="jpeg")

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._runs

    def submit(self, run_id: str, parameters: Parameters, round: int = 0) -> None:
        """Takes a run in; it is begun between two steps, after those of lower rounds."""
        self._runs.append(_Entry((round, next(self._arrivals)), run_id, parameters))

    def cancel(self, run_id: str) -> Iterator[RunEvent]:
        """Lets go of a run between two steps; says so if it was here."""
        before = len(self._runs)
        self._runs = [entry for entry in self._runs if entry.run_id != run_id]
        if len(self._runs) < before:
            yield Canceled(run_id)

    def turn(self) -> Iterator[RunEvent]:
        """One turn of the loop; says what happened as it happens."""
        chosen = next_call([entry for entry in self._runs if not entry.encoding], self._sizes)
        yield from self.admit(chosen)
        yield from self.step(chosen)
        yield from self.decode(chosen)
        yield from self.finish()

    def admit(self, chosen: list[_Entry]) -> Iterator[RunEvent]:
        """Begins with those that are not begun yet, one by one: none waits for another's prompt."""
        for entry in chosen:
            if entry.sample is not None:
                continue
            try:
                if not entry.second_try:
                    expected = self.estimator and self.estimator.seconds(entry.parameters)
                    yield Admitted(entry.run_id, expected)
                entry.sample = self.sdxl.prepare(entry.run_id, entry.parameters)
            except Exception as error:
                caught = error
            else:
                if entry.second_try:
                    entry.sample.notes.append(
                        "The device ran out of memory; the picture was begun anew with less on it "
                        f"({self.sdxl.tuning.tier})."
                    )
                continue
            yield from self._recover([entry], caught)

    def step(self, chosen: list[_Entry]) -> Iterator[RunEvent]:
        """One UNet call for the oldest sample and those that can share it."""
        begun = [(entry, entry.sample) for entry in chosen if entry.sample is not None]
        if not begun:
            return
        # A longer prompt, which is known only now, makes another shape.
        key = begun[0][1].batch_key
        begun = [(entry, sample) for entry, sample in begun if sample.batch_key == key]
        started = time.perf_counter()
        try:
            self.sdxl.denoise([sample for _, sample in begun])
        except Exception as error:
            caught = error
        else:
            if self._way != self.sdxl.held.way:
                self._way = self.sdxl.held.way
                self._sizes.forget()
            if all(sample.negative is None for _, sample in begun):
                # Guidance doubles a sample's rows, which would be taken for slowness.
                self._sizes.learn(begun[0][0].size, len(begun), time.perf_counter() - started)
            yield from (Stepped(sample.run_id, sample.step) for _, sample in begun)
            return
        if is_out_of_memory(caught) and len(begun) > 1:
            # Fewer together may fit; the samples stand where they stood before the call.
            caught.__traceback__ = caught.__context__ = caught.__cause__ = None
            self._sizes.limit(begun[0][0].size, len(begun) - 1)
            self.sdxl.release_memory()
            return
        yield from self._recover([entry for entry, _ in begun], caught)

    def decode(self, chosen: list[_Entry]) -> Iterator[RunEvent]:
        """Decodes what is denoised, one picture at a time, so that none waits for another."""
        for entry in chosen:
            sample = entry.sample
            if sample is None or not sample.denoised:
                continue
            try:
                picture = self.sdxl.decode(sample)
            except Exception as error:
                caught = error
            else:
                created = datetime.now(UTC)
                # A thread: the processor encodes while the device goes on.
                entry.encoding = self._encoder.submit(
                    encode, picture, sample.parameters, created, sample.notes, self.preview_bytes
                )
                entry.sample = None
                continue
            yield from self._recover([entry], caught)

    def finish(self) -> Iterator[RunEvent]:
        """Hands over the pictures that are encoded; waits for one where nothing else is to do."""
        encoding = [entry for entry in self._runs if entry.encoding]
        if encoding and len(encoding) == len(self._runs):
            wait(
                [entry.encoding for entry in encoding if entry.encoding],
                return_when=FIRST_COMPLETED,
            )
        for entry in encoding:
            assert entry.encoding is not None
            if not entry.encoding.done():
                continue
            self._runs.remove(entry)
            error = entry.encoding.exception()
            if isinstance(error, Exception):
                yield Failed(entry.run_id, _failure(error))
            else:
                yield Finished(entry.run_id, entry.encoding.result())

    def _recover(self, entries: list[_Entry], error: Exception) -> Iterator[RunEvent]:
        """Begins runs anew, once, where memory ran out and less can be held; else they failed.

        One run's failure must not stop the loop for the others.
        """
        failure = _failure(error)
        # Its frames hold the weights and activations that have to go before less can be held.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        for entry in entries:
            entry.sample = None
        short = is_out_of_memory(error) and not all(entry.second_try for entry in entries)
        less = short and self.sdxl.held.step_down()
        if less:
            self._sizes.forget()
        for entry in entries:
            if less and not entry.second_try:
                entry.second_try = True
                yield Stepped(entry.run_id, 0)
            else:
                self._runs.remove(entry)
                yield Failed(entry.run_id, failure)


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
