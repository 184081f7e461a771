"""The seam: a `Runner` carries out runs, wherever that is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run


@dataclass(frozen=True)
class DeviceStatus:
    """What one device is doing: `state` in a few words, and how many runs are with it.

    It is `ready` where it takes runs, also while it rests. `description` names the device, its data
    type and its software, once it was ready.
    """

    name: str
    state: str
    ready: bool
    description: str | None
    running: int


@dataclass(frozen=True)
class RunnerStatus:
    """What a runner is doing: how many runs it holds, and each of its devices.

    `state` and `device` are those of the device that is furthest: what a new run waits for.
    """

    state: str
    device: str | None
    waiting: int
    running: int
    devices: tuple[DeviceStatus, ...]


class Runner(ABC):
    """Carries out runs: `submit` one, watch it by its `updates`, `cancel` it."""

    async def submit(self, parameters: Parameters, notes: tuple[str, ...] = ()) -> Run:
        """Takes a run in and returns at once; the run tells how it goes on.

        Raises:
            QueueFullError: As many runs as may wait are waiting already.
            StorageError: Its picture could not be written, or the run not be recorded; nothing
                was begun.
        """
        run = Run(parameters, [*notes])
        await self.submit_all([run])
        return run

    @abstractmethod
    async def submit_all(self, runs: Sequence[Run]) -> None:
        """Takes runs in that are asked for together: all of them, or none.

        Raises:
            QueueFullError, StorageError: As `submit`.
        """

    @abstractmethod
    def wake(self) -> None:
        """Gets ready now, also where weights are to be fetched, and not only with the first run."""

    @abstractmethod
    async def take(self, runs: Sequence[Run]) -> None:
        """Takes runs in that are on record already, however many are waiting."""

    @abstractmethod
    def find(self, run_id: str) -> Run | None:
        """The run of this id, while it is under way here; what has ended is in the record."""

    @abstractmethod
    def unended(self) -> Sequence[Run]:
        """The runs that are under way here, the oldest first."""

    @abstractmethod
    async def cancel(self, run: Run) -> None:
        """Stops a run: at once where it waits, at the next step where it is under way."""

    @abstractmethod
    def status(self) -> RunnerStatus:
        """What the runner is doing now."""
