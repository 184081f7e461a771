"""The loop that owns one device: admit -> step -> finish, for ever."""

import logging
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime

from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.image import encode
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Admitted, Canceled, Failed, Finished, RunEvent, Stepped

log = logging.getLogger(__name__)


class Engine:
    """Carries out runs on one device; several can be under way, each at its own step.

    `max_batch` samples at most share a UNet call. With 1, every picture is computed alone and is
    bitwise repeatable; with more, a picture equals the one made alone up to rounding.
    """

    def __init__(self, sdxl: Sdxl, max_batch: int = 1) -> None:
        self.sdxl = sdxl
        self.max_batch = max_batch
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
            yield Admitted(run_id)
            try:
                self.active.append(self.sdxl.prepare(run_id, parameters))
            except Exception as error:
                yield _failed(run_id, error)

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
            yield from (_failed(sample.run_id, error) for sample in together)
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
                yield _failed(sample.run_id, error)


def _failed(run_id: str, error: Exception) -> Failed:
    """One run's failure must not stop the loop for the others."""
    if isinstance(error, SdxlLightningError):
        return Failed(run_id, error)
    log.exception("run %s failed", run_id)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    cure = " Try a smaller size." if "memory" in reason.lower() else ""
    return Failed(run_id, RunFailedError(f"The run failed on the device: {reason}.{cure}"))
