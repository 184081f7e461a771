"""Runs on this machine: a supervised worker process that owns the device."""

import logging
import math
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Process

from sdxl_lightning_mcp.catalogue import Model
from sdxl_lightning_mcp.errors import (
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    StorageError,
)
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import (
    Admitted,
    Canceled,
    Event,
    Failed,
    Finished,
    Loading,
    NotReady,
    Ready,
    Run,
    RunEvent,
    Status,
    Stepped,
)
from sdxl_lightning_mcp.runners.base import Runner, RunnerStatus
from sdxl_lightning_mcp.runners.wire import Assignment, Cancel, Order, Submit, frame, read_events
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)

# A run whose worker died under it twice is taken to be what kills workers.
MAX_ATTEMPTS = 2


class LocalRunner(Runner):
    """Keeps the queue, and hands runs to a worker process that it starts and restarts.

    Use `LocalRunner.open(...)`, which also ends the worker.
    """

    def __init__(self, assignment: Assignment, store: Store, max_queue: int) -> None:
        self.store = store
        self._assignment = assignment
        self._max_queue = max_queue
        self._waiting: deque[Run] = deque()
        self._running: dict[str, Run] = {}
        self._state = "starting"
        self._device: str | None = None
        self._capacity = 0
        self._refused = False
        self._process: Process | None = None
        self._wanted = anyio.Event()
        self._mean_ms = 0.0
        self._tasks = anyio.create_task_group()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        model: Model,
        store: Store,
        *,
        device: str = "auto",
        max_batch: int = 1,
        max_queue: int = 32,
        log_level: str = "info",
    ) -> AsyncGenerator["LocalRunner"]:
        """Starts loading in the background and yields the runner; ends the worker on leaving."""
        runner = cls(Assignment(model, device, max_batch, log_level), store, max_queue)
        raised: Exception | None = None
        async with runner._tasks as tasks:
            tasks.start_soon(runner._supervise)
            try:
                yield runner
            except Exception as error:
                # Raised again below, as it is: a task group would wrap it into an exception group.
                raised = error
            finally:
                tasks.cancel_scope.cancel()
        if raised is not None:
            raise raised

    async def submit(self, parameters: Parameters, notes: tuple[str, ...] = ()) -> Run:
        """Takes a run in. Raises QueueFullError or StorageError, and then nothing was begun."""
        if len(self._waiting) >= self._max_queue:
            seconds = math.ceil(self._mean_ms / 1000 * (len(self._waiting) + len(self._running)))
            wait = f" Try again in about {seconds} s." if seconds else " Try again soon."
            raise QueueFullError(f"{len(self._waiting)} runs are waiting, the most allowed.{wait}")
        _ = self.store.folder
        run = Run(parameters, [*notes])
        self._waiting.append(run)
        self._wanted.set()
        # Shielded: a caller that gives up here would leave a run that nobody can cancel.
        with anyio.CancelScope(shield=True):
            await self._dispatch()
        return run

    async def cancel(self, run: Run) -> None:
        """Stops a run: at once where it waits, at the next step where it is under way."""
        if run.done:
            return
        if run in self._waiting:
            self._waiting.remove(run)
            self._number_the_queue()
        elif run.id in self._running:
            await self._send(Cancel(run.id))
        self._end(run, Status.CANCELED, RunCanceledError("The run was canceled."))

    def status(self) -> RunnerStatus:
        """What the runner is doing now."""
        running = sum(not run.done for run in self._running.values())
        return RunnerStatus(self._state, self._device, len(self._waiting), running)

    # --- the worker's life -----------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keeps a worker alive; after one that could not load, waits until a run wants it."""
        while True:
            became_ready = await self._live_one_life()
            if not became_ready and not self._waiting:
                self._wanted = anyio.Event()
                await self._wanted.wait()

    async def _live_one_life(self) -> bool:
        """Runs one worker from start to end; returns whether it ever got ready."""
        command = [sys.executable, "-P", "-m", "sdxl_lightning_mcp.runners.worker"]
        self._state, self._capacity, self._refused, ready = "starting", 0, False, False
        try:
            # Shielded: a cancellation between the fork and our hold on it would leave an orphan.
            with anyio.CancelScope(shield=True):
                self._process = await anyio.open_process(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
                )
        except OSError as error:
            await self._handle(NotReady(RunFailedError(f"No worker can be started: {error}")))
            return False
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            await self._send(self._assignment)
            async for event in read_events(process.stdout):
                ready = ready or isinstance(event, Ready)
                await self._handle(event)
            await process.wait()
        finally:
            self._process, self._capacity = None, 0
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()
        if not self._refused:
            self._worker_died(process.returncode, ready)
        return ready

    def _worker_died(self, returncode: int | None, was_ready: bool) -> None:
        """Puts what it was working on back to the front of the queue, or fails it."""
        code = returncode or 0
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("the worker died (%s)", cause)
        self._state = "restarting"
        died_under = RunFailedError(
            f"The worker process died ({cause}) while the run was on it, "
            f"and again when it was tried anew. The log on stderr may say why."
        )
        if not was_ready:
            self._fail_all(RunFailedError(f"The worker process died ({cause}) while loading."))
        for run in sorted(self._running.values(), key=lambda run: run.created, reverse=True):
            if run.done:
                continue
            if run.attempts >= MAX_ATTEMPTS:
                self._end(run, Status.FAILED, died_under)
                continue
            run.status, run.step = Status.QUEUED, 0
            run.notes += ["The worker process died under this run; it was begun anew."] * (
                run.attempts > 0
            )
            self._waiting.appendleft(run)
        self._running.clear()
        self._number_the_queue()

    def _fail_all(self, error: SdxlLightningError) -> None:
        while self._waiting:
            self._end(self._waiting.popleft(), Status.FAILED, error)

    # --- runs ------------------------------------------------------------------------------

    async def _handle(self, event: Event) -> None:
        match event:
            case Loading(what):
                self._state = f"loading: {what}"
                self._number_the_queue()
            case Ready(description, capacity):
                log.info("ready: %s on %s", self._assignment.model.slug, description)
                self._state, self._device, self._capacity = "ready", description, capacity
                self._number_the_queue()
                await self._dispatch()
            case NotReady(error):
                self._state, self._refused = f"not ready: {error}", True
                self._fail_all(error)
            case _:
                await self._handle_run(event)

    async def _handle_run(self, event: RunEvent) -> None:
        run = self._running.get(event.run_id)
        if run is None:
            return
        match event:
            case Admitted() if not run.done:
                run.attempts += 1
                run.started_now()
            case Stepped(step=step) if not run.done:
                run.step = step
                run.message = f"step {step} of {run.parameters.steps}"
                run.changed()
            case Finished() | Failed() | Canceled():
                # Out of the worker's hands before the disk is waited for: the next may begin.
                del self._running[run.id]
                await self._dispatch()
                if isinstance(event, Finished) and not run.done:
                    self._tasks.start_soon(self._keep, run, event)
                elif isinstance(event, Failed):
                    self._end(run, Status.FAILED, event.error)
            case _:
                pass

    async def _keep(self, run: Run, finished: Finished) -> None:
        """Writes the picture without holding up the event loop."""
        try:
            path = await anyio.to_thread.run_sync(
                self.store.save, finished.image, run.id, run.created
            )
        except StorageError as error:
            self._end(run, Status.FAILED, error)
            return
        if run.done:  # canceled while the disk was waited for
            path.unlink(missing_ok=True)
            return
        run.notes += finished.notes
        if self.store.note:
            run.notes.append(self.store.note)
        run.image, run.path = finished.image, path
        self._end(run, Status.SUCCEEDED)
        self._mean_ms += 0.2 * (run.duration_ms - self._mean_ms)

    def _end(self, run: Run, status: Status, error: SdxlLightningError | None = None) -> None:
        if run.done:
            return
        run.ended(status, error)
        log.info(
            "run %s %s in %d ms%s", run.id, status, run.duration_ms, f": {error}" if error else ""
        )

    async def _dispatch(self) -> None:
        """Hands waiting runs to the worker while it has room."""
        while self._waiting and len(self._running) < self._capacity:
            run = self._waiting.popleft()
            self._running[run.id] = run
            await self._send(Submit(run.id, run.parameters))
        self._number_the_queue()

    def _number_the_queue(self) -> None:
        """Tells everyone who waits what they wait for."""
        ahead = len(self._running)
        for position, run in enumerate(self._waiting, start=1):
            place = f"{position + ahead - 1} ahead" if position + ahead > 1 else "next"
            message = f"queued, {place}" if self._capacity else self._state
            if (run.position, run.message) != (position, message):
                run.position, run.message = position, message
                run.changed()

    async def _send(self, order: Order) -> None:
        # A worker that has just died reads no more; its end is handled where events are read.
        if self._process is not None and self._process.stdin is not None:
            try:
                await self._process.stdin.send(frame(order))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                log.debug("the worker no longer reads")
