"""Runs on this machine: a supervised worker process that owns the device."""

import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import anyio

from sdxl_lightning_mcp.checkpoint import Model, license_notice
from sdxl_lightning_mcp.errors import (
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    StorageError,
)
from sdxl_lightning_mcp.hub import gigabytes, is_offline, missing, size
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
    Rested,
    Run,
    RunEvent,
    Status,
    Stepped,
)
from sdxl_lightning_mcp.runners.base import Runner, RunnerStatus
from sdxl_lightning_mcp.runners.process import WorkerProcess
from sdxl_lightning_mcp.runners.wire import Assignment, Cancel, Submit
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)

_closed = RunCanceledError("The server was closed before the run ended.")

# A run whose worker died under it twice is taken to be what kills workers.
MAX_ATTEMPTS = 2
# What takes longer is announced.
LONG_SECONDS = 60


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
        # Those two, and the runs whose pictures are being written.
        self._unended: set[Run] = set()
        self._state = "starting"
        self._device: str | None = None
        self._capacity = 0
        self._refused = False
        # Said with the runs that wait for weights to be fetched, of which a share is here.
        self._fetch_notes: list[str] = []
        self._loaded = 0.0
        self._worker: WorkerProcess | None = None
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
        idle_seconds: float | None = None,
        log_level: str = "info",
    ) -> AsyncGenerator["LocalRunner"]:
        """Starts loading in the background and yields the runner; ends the worker on leaving."""
        assignment = Assignment(
            model=model,
            device=device,
            max_batch=max_batch,
            idle_seconds=idle_seconds,
            log_level=log_level,
        )
        runner = cls(assignment, store, max_queue)
        # Before anyone can submit: the first run says what is fetched for it.
        await runner._look_for_weights()
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
                runner._end_all(runner._unended, Status.CANCELED, _closed)
        if raised is not None:
            raise raised

    async def submit(self, parameters: Parameters, notes: tuple[str, ...] = ()) -> Run:
        """Takes a run in. Raises QueueFullError or StorageError, and then nothing was begun."""
        await anyio.to_thread.run_sync(self.store.check)
        if len(self._waiting) >= self._max_queue:
            seconds = math.ceil(self._mean_ms / 1000 * (len(self._waiting) + len(self._running)))
            wait = f" Try again in about {seconds} s." if seconds else " Try again soon."
            raise QueueFullError(f"{len(self._waiting)} runs are waiting, the most allowed.{wait}")
        run = Run(parameters, [*notes, *self._fetch_notes])
        self._unended.add(run)
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
        # Ended first, so that a worker that dies meanwhile does not bring it back.
        self._end(run, Status.CANCELED, RunCanceledError("The run was canceled."))
        if run in self._waiting:
            self._waiting.remove(run)
            self._number_the_queue()
        elif run.id in self._running and (worker := self._worker):
            await worker.send(Cancel(run.id))

    def status(self) -> RunnerStatus:
        """What the runner is doing now."""
        running = sum(not run.done for run in self._running.values())
        return RunnerStatus(self._state, self._device, len(self._waiting), running)

    # --- the worker's life -----------------------------------------------------------------

    async def _look_for_weights(self) -> None:
        """Prepares what is to be said where weights are not on this disk yet."""
        files = self._assignment.model.checkpoint.all_files
        absent = await anyio.to_thread.run_sync(missing, files)
        if absent and not is_offline():
            amount = gigabytes(size(absent))
            self._state = f"the first run fetches {amount} of weights"
            self._fetch_notes = [
                f"{amount} of weights are fetched before this picture.",
                *license_notice(absent),
            ]

    async def _supervise(self) -> None:
        """Starts a worker, and another one after its death as soon as a run wants it."""
        if self._fetch_notes:
            # Gigabytes are not fetched because a client was started, but because one asks.
            log.info("%s", self._state)
            await self._wanted.wait()
        while True:
            await self._live_one_life()
            if not self._waiting:
                self._wanted = anyio.Event()
                await self._wanted.wait()

    async def _live_one_life(self) -> None:
        """Goes through one worker's life, from its start to its end."""
        self._state, self._refused, was_ready = "starting", False, False
        try:
            worker = self._worker = await WorkerProcess.start(self._assignment)
        except OSError as error:
            await self._handle(NotReady(RunFailedError(f"No worker can be started: {error}")))
            return
        try:
            async for event in worker.events():
                was_ready = was_ready or isinstance(event, Ready)
                await self._handle(event)
        except Exception:
            # Whatever it said that cannot be understood: this worker is of no more use.
            log.exception("the worker is ended")
        finally:
            self._worker, self._capacity = None, 0
            cause = await worker.end()
        if not self._refused:
            self._worker_died(cause, was_ready)

    def _worker_died(self, cause: str, was_ready: bool) -> None:
        """Puts what it was working on back to the front of the queue, or fails it."""
        log.error("the worker died (%s)", cause)
        self._state = "restarting"
        if not was_ready:
            reason = RunFailedError(f"The worker process died ({cause}) while loading.")
            self._end_all(self._waiting, Status.FAILED, reason)
            self._waiting.clear()
        for run in reversed(self._running.values()):
            if run.attempts >= MAX_ATTEMPTS:
                reason = RunFailedError(
                    f"The worker process died ({cause}) while the run was on it, "
                    f"and again when it was tried anew. The log on stderr may say why."
                )
                self._end(run, Status.FAILED, reason)
            elif not run.done:
                run.status, run.step = Status.QUEUED, 0
                if run.attempts:
                    run.notes.append("The worker process died under this run; it was begun anew.")
                self._waiting.appendleft(run)
        self._running.clear()
        self._number_the_queue()

    # --- runs ------------------------------------------------------------------------------

    async def _handle(self, event: Event) -> None:
        match event:
            case Loading(what, share):
                self._state, self._loaded = what, share
                self._number_the_queue()
            case Ready(description, capacity):
                log.info("ready: %s on %s", self._assignment.model.slug, description)
                self._state, self._device, self._capacity = "ready", description, capacity
                self._fetch_notes, self._loaded = [], 0.0
                self._number_the_queue()
                await self._dispatch()
            case Rested():
                self._state = "resting, the next run brings the weights back"
            case NotReady(error):
                self._state, self._refused = f"not ready: {error}", True
                self._end_all(self._waiting, Status.FAILED, error)
                self._waiting.clear()
            case _:
                await self._handle_run(event)

    async def _handle_run(self, event: RunEvent) -> None:
        run = self._running.get(event.run_id)
        if run is None:
            return
        match event:
            case Admitted(expected=expected) if not run.done:
                self._state = "ready"
                run.attempts += 1
                run.started_now()
                if expected is not None and expected >= LONG_SECONDS:
                    run.message = f"about {math.ceil(expected / 60)} minutes on {self._device}"
                    log.warning("run %s: %s", run.id, run.message)
                    run.changed()
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
        except Exception as error:
            log.exception("run %s cannot be kept", run.id)
            self._end(run, Status.FAILED, RunFailedError(f"The picture cannot be kept: {error}"))
            return
        if run.done:  # canceled while the disk was waited for
            with contextlib.suppress(OSError):
                path.unlink()
            return
        run.notes += finished.image.notes
        if self.store.note:
            run.notes.append(self.store.note)
        run.image, run.path = finished.image, path
        self._end(run, Status.SUCCEEDED)
        latest = run.duration_ms
        self._mean_ms = 0.8 * self._mean_ms + 0.2 * latest if self._mean_ms else latest

    def _end(self, run: Run, status: Status, error: SdxlLightningError | None = None) -> None:
        if run.done:
            return
        self._unended.discard(run)
        run.ended(status, error)
        log.info(
            "run %s %s in %d ms%s", run.id, status, run.duration_ms, f": {error}" if error else ""
        )

    def _end_all(self, runs: Iterable[Run], status: Status, error: SdxlLightningError) -> None:
        for run in [*runs]:
            self._end(run, status, error)

    async def _dispatch(self) -> None:
        """Hands waiting runs to the worker while it has room."""
        while (worker := self._worker) and self._waiting and len(self._running) < self._capacity:
            run = self._waiting.popleft()
            self._running[run.id] = run
            await worker.send(Submit(run.id, run.parameters))
        self._number_the_queue()

    def _number_the_queue(self) -> None:
        """Tells everyone who waits what they wait for."""
        ahead = len(self._running)
        for position, run in enumerate(self._waiting, start=1):
            place = f"{position + ahead - 1} ahead" if position + ahead > 1 else "next"
            message = f"queued, {place}" if self._capacity else self._state
            if (run.position, run.message, run.loaded) != (position, message, self._loaded):
                run.position, run.message, run.loaded = position, message, self._loaded
                run.changed()
