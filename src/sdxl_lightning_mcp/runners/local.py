"""Runs on this machine: one queue, and a supervised worker process for each device."""

import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio

from sdxl_lightning_mcp.checkpoint import Model, license_notice
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.errors import (
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    StorageError,
    WeightsError,
)
from sdxl_lightning_mcp.hub import gigabytes, is_offline, missing, size
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Canceled, Failed, Finished, Run, Status
from sdxl_lightning_mcp.runners.base import Runner, RunnerStatus
from sdxl_lightning_mcp.runners.supervisor import Supervisor
from sdxl_lightning_mcp.runners.wire import Assignment
from sdxl_lightning_mcp.settings import Speed
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)

_closed = RunCanceledError("The server was closed before the run ended.")

EXACT_PLACES = 100


def _log(run: Run) -> None:
    error = f": {run.error}" if run.error else ""
    log.info("run %s %s in %d ms%s", run.id, run.status, run.duration_ms, error)


class LocalRunner(Runner):
    """Keeps the queue, and hands runs to the worker processes, one for each device.

    Use `LocalRunner.open(...)`, which also ends the workers.
    """

    def __init__(
        self,
        assignments: Sequence[Assignment],
        store: Store,
        max_queue: int,
        record: Record | None = None,
        ended: Callable[[Run], None] = _log,
    ) -> None:
        self.store = store
        self._record, self._ended = record, ended
        self._max_queue = max_queue
        self._waiting: deque[Run] = deque()
        # Of runs that are being recorded, which then wait.
        self._arriving = 0
        # The queue, what is with the workers, and the runs whose pictures or ends are being
        # written.
        self._unended: dict[str, Run] = {}
        self._moved = anyio.Event()
        # Said with the runs that wait for weights to be fetched.
        self._fetch_notes: list[str] = []
        self._mean_ms = 0.0
        self._devices = [
            Supervisor(
                assignment,
                changed=self._device_changed,
                left=self._run_left,
                returned=self._runs_returned,
            )
            for assignment in assignments
        ]
        self._tasks = anyio.create_task_group()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        model: Model,
        store: Store,
        *,
        devices: Sequence[Device] = (Device(),),
        speed: Speed = Speed.NORMAL,
        max_batch: int | None = None,
        max_queue: int = 32,
        idle_seconds: float | None = None,
        log_level: str = "info",
        preview_bytes: int | None = None,
        record: Record | None = None,
        ended: Callable[[Run], None] = _log,
    ) -> AsyncGenerator["LocalRunner"]:
        """Starts loading in the background and yields the runner; ends the workers on leaving.

        With a `record`, every run is recorded before it is acknowledged, and so is its end before
        it is told. `ended` is told every run that has ended; unless said, it logs a line.
        """
        assignments = [
            Assignment(
                model=model,
                device=device,
                speed=speed,
                max_batch=max_batch,
                idle_seconds=idle_seconds,
                log_level=log_level,
                preview_bytes=preview_bytes,
            )
            for device in devices
        ]
        runner = cls(assignments, store, max_queue, record, ended)
        # Before anyone can submit: the first run says what is fetched for it.
        await runner._look_for_weights(model)
        raised: Exception | None = None
        async with runner._tasks as tasks:
            tasks.start_soon(runner._number_the_queue)
            for device in runner._devices:
                tasks.start_soon(device.supervise)
            try:
                yield runner
            except Exception as error:
                # Raised again below, as it is: a task group would wrap it into an exception group.
                raised = error
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await runner._close()
        if raised is not None:
            raise raised

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

    def wake(self) -> None:
        """Gets ready now, also where weights are to be fetched."""
        for note in self._fetch_notes:
            log.info(note)
        self._wake()

    async def take(self, runs: Sequence[Run]) -> None:
        """Takes runs in that are recorded already, however many are waiting."""
        for run in runs:
            run.notes += self._fetch_notes
            self._unended[run.id] = run
            self._waiting.append(run)
            self._number([(len(self._waiting), run)])
        if runs:
            self._wake()
            await self._dispatch()

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
        # Settled first, so that a worker that dies meanwhile does not bring it back.
        run.settle(Status.CANCELED, RunCanceledError("The run was canceled."))
        if run in self._waiting:
            self._waiting.remove(run)
            self._moved.set()
        for device in self._devices:
            await device.cancel(run)
        await self._told([run])

    def status(self) -> RunnerStatus:
        """What the runner is doing now."""
        devices = tuple(device.status() for device in self._devices)
        running = sum(device.running for device in devices)
        first = self._furthest.status()
        return RunnerStatus(first.state, first.description, len(self._waiting), running, devices)

    # --- devices ---------------------------------------------------------------------------

    async def _look_for_weights(self, model: Model) -> None:
        """Wants all workers, or prepares what is to be said where weights are to be fetched."""
        files = model.checkpoint.all_files
        absent = await anyio.to_thread.run_sync(missing, files)
        if not absent or is_offline():
            self._wake()
            return
        # Gigabytes are not fetched because a client was started, but because one asks.
        amount = gigabytes(size(absent))
        log.info("the first run fetches %s of weights", amount)
        for device in self._devices:
            device.state = f"the first run fetches {amount} of weights"
        self._fetch_notes = [
            f"{amount} of weights are fetched before this picture.",
            *license_notice(absent),
        ]

    def _wake(self) -> None:
        """Wants workers; devices that were refused are tried again only where all of them were."""
        willing = [one for one in self._devices if one.refusal is None] or self._devices
        # One worker fetches; the others find the files here.
        for device in willing[:1] if self._fetch_notes else willing:
            device.wake()

    @property
    def _furthest(self) -> Supervisor:
        """The device that is ready, or else one that may become so."""
        return min(self._devices, key=lambda one: (not one.capacity, one.refusal is not None))

    async def _device_changed(self, device: Supervisor) -> None:
        ready = self._furthest.capacity > 0
        if self._fetch_notes and ready:
            self._fetch_notes = []
            self._wake()
        refusal = self._furthest.refusal
        if isinstance(device.refusal, WeightsError) and not ready:
            # All devices open the same files: the next would only fetch them in vain once more.
            refusal = device.refusal
        if refusal is not None:
            self._end(self._waiting, Status.FAILED, refusal)
            self._waiting.clear()
        elif self._waiting:
            self._wake()
        self._moved.set()
        await self._dispatch()

    def _runs_returned(self, runs: Sequence[Run]) -> None:
        self._waiting.extendleft(reversed(runs))
        self._moved.set()

    # --- runs ------------------------------------------------------------------------------

    def _check_room(self, count: int) -> None:
        waiting = len(self._waiting) + self._arriving
        if waiting + count > self._max_queue:
            most = "the most allowed" if waiting >= self._max_queue else f"of {self._max_queue}"
            seconds = self._expected_wait()
            cure = f"Try again in about {seconds} s." if seconds else "Try again soon."
            raise QueueFullError(f"{waiting} runs are waiting, {most}. {cure}", max(1, seconds))

    def _begin(self, runs: Sequence[Run]) -> None:
        """Off the event loop: there is a place for the pictures, and the runs are on record."""
        self.store.check()
        if self._record:
            self._record.begin(runs)

    async def _run_left(self, run: Run, event: Finished | Failed | Canceled) -> None:
        # Before the disk is waited for: the next may begin.
        await self._dispatch()
        if isinstance(event, Finished) and not run.done:
            self._tasks.start_soon(self._keep, run, event)
        elif isinstance(event, Failed):
            self._end([run], Status.FAILED, event.error)

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
        run.notes += finished.image.notes
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

    async def _close(self) -> None:
        """Ends what is left when the runner is."""
        left = [run for run in self.unended() if not run.done]
        for run in left:
            run.settle(Status.CANCELED, _closed)
        await self._told(left, closing=True)

    # --- the queue -------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """Hands the oldest of the waiting runs to workers that have room, the emptiest first."""
        while self._waiting and (device := self._emptiest()):
            self._moved.set()
            await device.give(self._waiting.popleft())

    def _emptiest(self) -> Supervisor | None:
        # With several, none takes the one run more that may wait at its door: another device
        # may be free for it sooner.
        door = len(self._devices) > 1
        free = [one for one in self._devices if len(one.running) < one.capacity - door]
        return min(free, key=lambda one: len(one.running), default=None)

    def _expected_wait(self) -> int:
        """Seconds until what is here is done, as far as is known; else 0."""
        ready = sum(one.capacity > 0 for one in self._devices)
        runs = len(self._waiting) + sum(len(one.running) for one in self._devices)
        return math.ceil(self._mean_ms / 1000 * runs / max(1, ready))

    async def _number_the_queue(self) -> None:
        """Tells everyone who waits what they wait for: once for changes that come together."""
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            self._number(enumerate(self._waiting, start=1))

    def _number(self, runs: Iterable[tuple[int, Run]]) -> None:
        device = self._furthest
        running = sum(len(one.running) for one in self._devices)
        for position, run in runs:
            run.position = position
            message = _place(position - 1 + running) if device.capacity else device.state
            if (run.message, run.loaded) != (message, device.loaded):
                run.message, run.loaded = message, device.loaded
                run.changed()


def _place(ahead: int) -> str:
    """Where a run stands; in round numbers far behind, where not every move is worth telling."""
    if ahead < EXACT_PLACES:
        return f"queued, {ahead} ahead" if ahead else "queued, next"
    return f"queued, about {round(ahead, 2 - len(str(ahead)))} ahead"
