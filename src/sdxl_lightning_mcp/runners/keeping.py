"""What every runner does alike: runs on record, pictures on disk, and ends that are told."""

import contextlib
import logging
import math
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio

from sdxl_lightning_mcp.errors import (
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    StorageError,
)
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Finished, Run, Status
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)

_closed = RunCanceledError("The server was closed before the run ended.")


def _log(run: Run) -> None:
    error = f": {run.error}" if run.error else ""
    log.info("run %s %s in %d ms%s", run.id, run.status, run.duration_ms, error)


class KeepingRunner(Runner):
    """A runner that keeps what becomes of its runs, wherever they are carried out.

    With a `record`, every run is recorded before it is acknowledged, and so is its end before it
    is told. `ended` is told every run that has ended; unless said, it logs a line.
    """

    def __init__(
        self,
        store: Store,
        max_queue: int,
        record: Record | None = None,
        ended: Callable[[Run], None] | None = None,
    ) -> None:
        self.store = store
        self._record, self._ended = record, ended or _log
        self._max_queue = max_queue
        # Of runs that are being recorded, which then wait.
        self._arriving = 0
        # What waits, what is being carried out, and the runs whose pictures or ends are being
        # written.
        self._unended: dict[str, Run] = {}
        # Of runs whose tasks are here: `_stop` gives up what is awaited for one.
        self._scopes: dict[str, anyio.CancelScope] = {}
        # How long the latest runs took, the newest counting most.
        self._mean_ms = 0.0
        self._tasks = anyio.create_task_group()

    async def submit_all(self, runs: Sequence[Run]) -> None:
        """Takes runs in, all or none. Raises QueueFullError or StorageError."""
        self._check_room(len(runs))
        self._arriving += len(runs)
        # Shielded: a caller that gives up here would leave a run that nobody can cancel.
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(self._begin, runs)
            finally:
                self._arriving -= len(runs)
            await self.take(runs)

    def find(self, run_id: str) -> Run | None:
        """The run of this id, until its end is recorded."""
        return self._unended.get(run_id)

    def unended(self) -> list[Run]:
        """The runs that are under way, the oldest first."""
        return [*self._unended.values()]

    async def cancel(self, run: Run) -> None:
        """Stops a run: at once where it waits, at the next step where it is under way."""
        if run.done:
            return
        # Settled first, so that what goes wrong meanwhile does not bring it back.
        run.settle(Status.CANCELED, RunCanceledError("The run was canceled."))
        await self._let_go(run)
        await self._told([run])

    @abstractmethod
    async def _let_go(self, run: Run) -> None:
        """Sees to it that nobody works on a run any more, which has been settled."""

    @abstractmethod
    def _load(self) -> tuple[int, int, int]:
        """How many runs wait, how many are being carried out, and on how many devices."""

    @asynccontextmanager
    async def _living(self) -> AsyncGenerator[None]:
        """Inside, the runner's tasks go on; on leaving, what is left of its runs is ended."""
        raised: Exception | None = None
        async with self._tasks as tasks:
            try:
                yield
            except Exception as error:
                # Raised again below, as it is: a task group would wrap it into an exception group.
                raised = error
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._close()
        if raised is not None:
            raise raised

    async def _close(self) -> None:
        """Ends what is left when the runner is."""
        left = [run for run in self.unended() if not run.done]
        for run in left:
            run.settle(Status.CANCELED, _closed)
        await self._told(left, closing=True)

    def _check_room(self, count: int) -> None:
        waiting = self._load()[0] + self._arriving
        if waiting + count > self._max_queue:
            most = "the most allowed" if waiting >= self._max_queue else f"of {self._max_queue}"
            seconds = self._expected_wait()
            cure = f"Try again in about {seconds} s." if seconds else "Try again soon."
            raise QueueFullError(f"{waiting} runs are waiting, {most}. {cure}", max(1, seconds))

    def _expected_wait(self) -> int:
        """Seconds until what is here is done, as far as is known; else 0."""
        waiting, running, devices = self._load()
        return math.ceil(self._mean_ms / 1000 * (waiting + running) / max(1, devices))

    def _begin(self, runs: Sequence[Run]) -> None:
        """Off the event loop: there is a place for the pictures, and the runs are on record."""
        self.store.check()
        if self._record:
            self._record.begin(runs)

    async def _see_through(
        self, run: Run, finish: Callable[[Run], Awaitable[Finished | None]]
    ) -> None:
        """Awaits a run's end from `finish`, unless it is stopped, and keeps what comes of it.

        However one run goes wrong, the others go on.
        """
        finished: Finished | None = None
        scope = self._scopes[run.id] = anyio.CancelScope()
        try:
            with scope:
                finished = await finish(run)
        except RunCanceledError as error:
            self._end([run], Status.CANCELED, error)
        except SdxlLightningError as error:
            self._end([run], Status.FAILED, error)
        except Exception as error:
            log.exception("run %s cannot be carried out", run.id)
            failure = RunFailedError(f"The run cannot be carried out: {error}")
            self._end([run], Status.FAILED, failure)
        finally:
            del self._scopes[run.id]
        if finished:
            await self._keep(run, finished)

    def _stop(self, run: Run) -> None:
        """Gives up what `_see_through` awaits for a run, if anything."""
        if run.id in self._scopes:
            self._scopes[run.id].cancel()

    async def _keep(self, run: Run, finished: Finished) -> None:
        """Writes the picture without holding up the event loop."""
        try:
            path = await anyio.to_thread.run_sync(
                self.store.save, finished.image, run.id, run.created
            )
        except StorageError as error:
            self._end([run], Status.FAILED, error)
            return
        except Exception as error:
            log.exception("run %s cannot be kept", run.id)
            failure = RunFailedError(f"The picture cannot be kept: {error}")
            self._end([run], Status.FAILED, failure)
            return
        if run.done:  # canceled while the disk was waited for
            with contextlib.suppress(OSError):
                path.unlink()
            return
        run.notes += (note for note in finished.image.notes if note not in run.notes)
        if self.store.note:
            run.notes.append(self.store.note)
        run.image, run.path, run.size = finished.image, path, len(finished.image.jpeg)
        run.settle(Status.SUCCEEDED)
        latest = run.duration_ms
        self._mean_ms = 0.8 * self._mean_ms + 0.2 * latest if self._mean_ms else latest
        await self._told([run])

    def _end(self, runs: Iterable[Run], status: Status, error: SdxlLightningError) -> None:
        """Ends the runs that have not ended, and tells it as soon as it is recorded."""
        ending = [run for run in runs if not run.done]
        for run in ending:
            run.settle(status, error)
        self._tasks.start_soon(self._told, ending)

    async def _told(self, runs: Sequence[Run], *, closing: bool = False) -> None:
        """Records how runs have ended, and only then tells those who watch."""
        if self._record and runs:
            write = self._record.leave if closing else self._record.end
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(write, runs)
            except StorageError:
                # They have ended all the same. What is on record as unfinished is looked at by
                # the next server, which finds the pictures.
                log.exception("the end of %d runs cannot be recorded", len(runs))
        for run in runs:
            self._unended.pop(run.id, None)
            run.changed()
            self._ended(run)
