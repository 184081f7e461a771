"""One request on its way: `Run`, its `Status`, and the events that move it along."""

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import anyio

from sdxl_lightning_mcp.errors import SdxlLightningError
from sdxl_lightning_mcp.ids import new_run_id
from sdxl_lightning_mcp.image import GeneratedImage
from sdxl_lightning_mcp.request import Parameters


class Status(StrEnum):
    """Where a run stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


@dataclass(frozen=True)
class Ready:
    """The device's weights are open. `description` names device, data type and software."""

    description: str
    capacity: int


@dataclass(frozen=True)
class Rested:
    """The weights have left the device for want of work; the next run brings them back."""


@dataclass(frozen=True)
class Loading:
    """The device is getting ready; `what` is being done now, and `share` of it, 0 to 1, is done."""

    what: str
    share: float = 0.0


@dataclass(frozen=True)
class NotReady:
    """The device cannot be made ready; `error` says why and what to do."""

    error: SdxlLightningError


@dataclass(frozen=True)
class Queued:
    """The run waits at a device that others use too, and so many runs come before it."""

    run_id: str
    ahead: int


@dataclass(frozen=True)
class Admitted:
    """The device has begun with this run; `expected` are seconds, where they are many."""

    run_id: str
    expected: float | None = None


@dataclass(frozen=True)
class Stepped:
    """`step` denoising steps of this run are done."""

    run_id: str
    step: int


@dataclass(frozen=True)
class Finished:
    """The picture is there."""

    run_id: str
    image: GeneratedImage


@dataclass(frozen=True)
class Failed:
    """This run ends without a picture."""

    run_id: str
    error: SdxlLightningError


@dataclass(frozen=True)
class Canceled:
    """The device has let go of this run."""

    run_id: str


DeviceEvent = Loading | Ready | NotReady | Rested
RunEvent = Queued | Admitted | Stepped | Finished | Failed | Canceled
Event = DeviceEvent | RunEvent


@dataclass(frozen=True)
class Progress:
    """A run's progress as a caller is told it: done of total, and a few words."""

    done: float
    total: float
    message: str


EXACT_PLACES = 100


def place(ahead: int) -> str:
    """Where a run stands; in round numbers far behind, where not every move is worth telling."""
    if ahead < EXACT_PLACES:
        return f"queued, {ahead} ahead" if ahead else "queued, next"
    return f"queued, about {round(ahead, 2 - len(str(ahead)))} ahead"


@dataclass(frozen=True)
class Key:
    """What a caller names a request by, so that it is carried out once however often it comes.

    `fingerprint` tells whether another request with this key is the same.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Origin:
    """Who asked for a run: the key or person it belongs to, where there are several.

    `batch` is what runs that were asked for together share. `price` is what the run costs if it
    succeeds. `context` is what the caller or the face wants to find with the run again, as JSON
    can hold it. `key` is what the request was named by; it is recorded with the runs, and not read
    again with them.
    """

    owner: str | None = None
    batch: str | None = None
    price: float | None = None
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    key: Key | None = None


@dataclass(eq=False)
class Run:
    """One request on its way to a picture.

    `notes` say what was done otherwise than asked. `path` is where the finished picture lies,
    and `size` are its bytes; the picture itself is with a run of this process only.
    Only a runner changes a run; everyone else watches it.
    """

    parameters: Parameters
    notes: list[str]
    origin: Origin = Origin()
    id: str = field(default_factory=new_run_id)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: Status = Status.QUEUED
    position: int = 0
    loaded: float = 0.0
    step: int = 0
    attempts: int = 0
    message: str = "queued"
    image: GeneratedImage | None = None
    path: Path | None = None
    size: int | None = None
    error: SdxlLightningError | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    started: float | None = None
    duration_ms: int = 0
    # There while someone watches: thousands may wait in a queue whom nobody watches.
    _changed: anyio.Event | None = None

    @property
    def done(self) -> bool:
        """Whether the run has come to its end, with a picture or without."""
        return self.status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)

    @property
    def progress(self) -> Progress:
        """The steps done, plus one for decoding and writing the picture.

        Below one it is the share of the weights that have come, while they are waited for.
        """
        done = float(self.step) + (self.status is Status.SUCCEEDED)
        if self.status is Status.QUEUED:
            done += 0.9 * self.loaded
        return Progress(done, self.parameters.steps + 1.0, self.message)

    @property
    def cost(self) -> float | None:
        """What the run costs: its price if there is a picture; None where there is no price."""
        if self.origin.price is None:
            return None
        return self.origin.price if self.status is Status.SUCCEEDED else 0.0

    @property
    def facts(self) -> dict[str, Any]:
        """The run as data: what was made, from what, where it lies, and how long it took."""
        return {
            "id": self.id,
            "path": None if self.path is None else str(self.path),
            **self.parameters.model_dump(),
            "notes": self.notes,
            "duration_ms": self.duration_ms,
        }

    def started_now(self) -> None:
        """The device begins with the run: its clock starts."""
        self.status, self.position, self.started = Status.RUNNING, 0, time.perf_counter()
        self.started_at = datetime.now(UTC)
        self.step, self.message = 0, "reading the prompt"
        self.changed()

    def settle(self, status: Status, error: SdxlLightningError | None = None) -> None:
        """The run has come to its end, of which `changed` will tell."""
        if self.started is not None:
            self.duration_ms = round((time.perf_counter() - self.started) * 1000)
        self.completed_at = datetime.now(UTC)
        self.status, self.error, self.message = status, error, str(status)

    def changed(self) -> None:
        """Wakes everyone who watches."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def updates(self) -> AsyncIterator[Progress]:
        """The run's progress now and after every change, until the run has ended.

        Changes that follow each other faster than the watcher reads are told as one.
        """
        while True:
            changed = self._changed = self._changed or anyio.Event()
            last = self.done
            yield self.progress
            if last:
                return
            await changed.wait()

    async def finished(self) -> Path:
        """Waits for the end and returns where the picture lies.

        Raises:
            SdxlLightningError: Why there is no picture.
        """
        async for _ in self.updates():
            pass
        if self.error is not None:
            raise self.error
        assert self.path is not None
        return self.path
