"""Runs on this machine: one queue, and a supervised worker process for each device."""

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import anyio

from sdxl_lightning_mcp.checkpoint import Model, license_notice
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.errors import WeightsError
from sdxl_lightning_mcp.hub import gigabytes, is_offline, missing, size
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Canceled, Failed, Finished, Run, Status, place
from sdxl_lightning_mcp.runners.base import RunnerStatus
from sdxl_lightning_mcp.runners.keeping import KeepingRunner
from sdxl_lightning_mcp.runners.process import Start, WorkerProcess
from sdxl_lightning_mcp.runners.supervisor import Supervisor
from sdxl_lightning_mcp.runners.wire import Assignment
from sdxl_lightning_mcp.settings import Speed
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)


class LocalRunner(KeepingRunner):
    """Has the queue, and hands runs to the worker processes, one for each device.

    Use `LocalRunner.open(...)`, which also ends the workers.
    """

    def __init__(
        self,
        assignments: Sequence[Assignment],
        store: Store,
        max_queue: int,
        start: Start,
        record: Record | None = None,
        ended: Callable[[Run], None] | None = None,
    ) -> None:
        super().__init__(store, max_queue, record, ended)
        self._waiting: deque[Run] = deque()
        self._moved = anyio.Event()
        # Said with the runs that wait for weights to be fetched.
        self._fetch_notes: list[str] = []
        self._devices = [
            Supervisor(
                assignment,
                start,
                changed=self._device_changed,
                left=self._run_left,
                returned=self._runs_returned,
            )
            for assignment in assignments
        ]

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
        start: Start = WorkerProcess.start,
        record: Record | None = None,
        ended: Callable[[Run], None] | None = None,
    ) -> AsyncGenerator["LocalRunner"]:
        """Starts loading in the background and yields the runner; ends the workers on leaving.

        `start` gets a worker for an assignment; unless said, a process of this runner's own.
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
        runner = cls(assignments, store, max_queue, start, record, ended)
        # Before anyone can submit: the first run says what is fetched for it.
        await runner._look_for_weights(model)
        async with runner._living():
            runner._tasks.start_soon(runner._number_the_queue)
            for device in runner._devices:
                runner._tasks.start_soon(device.supervise)
            yield runner

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

    async def _run_left(self, run: Run, event: Finished | Failed | Canceled) -> None:
        # Before the disk is waited for: the next may begin.
        await self._dispatch()
        if isinstance(event, Finished) and not run.done:
            self._tasks.start_soon(self._keep, run, event)
        elif isinstance(event, Failed):
            self._end([run], Status.FAILED, event.error)

    async def _let_go(self, run: Run) -> None:
        if run in self._waiting:
            self._waiting.remove(run)
            self._moved.set()
        for device in self._devices:
            await device.cancel(run)

    def _load(self) -> tuple[int, int, int]:
        running = sum(len(one.running) for one in self._devices)
        return len(self._waiting), running, sum(one.capacity > 0 for one in self._devices)

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

    async def _number_the_queue(self) -> None:
        """Tells everyone who waits what they wait for: once for changes that come together."""
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            self._number(enumerate(self._waiting, start=1))

    def _number(self, runs: Iterable[tuple[int, Run]]) -> None:
        device = self._furthest
        ahead = sum(one.line for one in self._devices)
        for position, run in runs:
            run.position = position
            message = place(position - 1 + ahead) if device.capacity else device.state
            if (run.message, run.loaded) != (message, device.loaded):
                run.message, run.loaded = message, device.loaded
                run.changed()
