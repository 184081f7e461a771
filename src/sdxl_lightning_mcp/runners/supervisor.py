"""One device's worker process: started, heard, and replaced when it dies."""

import logging
import math
from collections.abc import Awaitable, Callable

import anyio

from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.run import (
    Admitted,
    Canceled,
    Event,
    Failed,
    Finished,
    Loading,
    NotReady,
    Queued,
    Ready,
    Rested,
    Run,
    RunEvent,
    Status,
    Stepped,
    place,
)
from sdxl_lightning_mcp.runners.base import DeviceStatus
from sdxl_lightning_mcp.runners.process import Start, Worker
from sdxl_lightning_mcp.runners.wire import Assignment, Cancel, Submit

log = logging.getLogger(__name__)

# A run whose worker died under it twice is taken to be what kills workers; a device whose worker
# died twice before it began a run, to be one that cannot be made ready.
MAX_ATTEMPTS = 2
STARTING = "getting ready to draw"
# What takes longer is announced.
LONG_SECONDS = 60


class Supervisor:
    """Keeps one device's worker, and knows which runs are with it.

    `refusal` says why the device cannot be made ready, where it cannot. The queue is told
    afterwards: `changed` that the device is another than before, `left` how a run came out of the
    worker's hands, `returned` which runs a dead worker left to be begun anew.
    """

    def __init__(
        self,
        assignment: Assignment,
        start: Start,
        *,
        changed: Callable[["Supervisor"], Awaitable[None]],
        left: Callable[[Run, Finished | Failed | Canceled], Awaitable[None]],
        returned: Callable[[list[Run]], None],
    ) -> None:
        self.state = STARTING
        self.description: str | None = None
        # The share of the weights that is here, while they are fetched.
        self.loaded = 0.0
        # How many runs the worker takes; none before it is ready.
        self.capacity = 0
        self.running: dict[str, Run] = {}
        self.refusal: SdxlLightningError | None = None
        self._assignment, self._start = assignment, start
        self._changed, self._left, self._returned = changed, left, returned
        self._worker: Worker | None = None
        # Of runs that wait at the device behind those of others: how many come before them.
        self._ahead: dict[str, int] = {}
        self._wanted = anyio.Event()
        # Of workers in a row that died before they began a run.
        self._early_deaths = 0
        self._began = False

    def status(self) -> DeviceStatus:
        """What the device is doing now."""
        running = sum(not run.done for run in self.running.values())
        ready = self.capacity > 0
        name = self._assignment.device.name
        return DeviceStatus(name, self.state, ready, self.description, running)

    @property
    def line(self) -> int:
        """How many runs come before one that is given to the worker next."""
        return max([len(self.running), *(ahead + 1 for ahead in self._ahead.values())])

    def wake(self) -> None:
        """Wants a worker; nothing where there is one already."""
        self._wanted.set()

    async def supervise(self) -> None:
        """Starts a worker whenever one is wanted and there is none, for ever."""
        while True:
            await self._wanted.wait()
            await self._live()
            self._wanted = anyio.Event()
            await self._changed(self)

    async def give(self, run: Run) -> None:
        """Hands a run to the worker, which has room for it."""
        assert self._worker is not None
        self.running[run.id] = run
        await self._worker.send(Submit(run.id, run.parameters))

    async def cancel(self, run: Run) -> None:
        """Tells the worker to let go of a run, if it has it."""
        if run.id in self.running and self._worker:
            await self._worker.send(Cancel(run.id))

    async def _live(self) -> None:
        """Goes through one worker's life, from its start to its end."""
        self.state, self.refusal, self._began = STARTING, None, False
        try:
            worker = self._worker = await self._start(self._assignment)
        except OSError as error:
            self._refuse(RunFailedError(f"No worker can be started: {error}"))
            return
        except SdxlLightningError as error:
            self._refuse(error)
            return
        try:
            async for event in worker.events():
                await self._hear(event)
        except Exception:
            # Whatever it said that cannot be understood: this worker is of no more use.
            log.exception("the worker is ended")
        finally:
            was_ready, self._worker, self.capacity = self.capacity > 0, None, 0
            self._ahead.clear()
            cause = await worker.end()
        if self.refusal is None:
            await self._died(cause, worker.log_place, was_ready)

    async def _hear(self, event: Event) -> None:
        match event:
            case Loading(what, share):
                self.state, self.loaded = what, share
            case Ready(description, capacity):
                log.info("ready: %s on %s", self._assignment.model.slug, description)
                self.state, self.description, self.capacity = "ready", description, capacity
                self.loaded = 0.0
            case Rested():
                self.state = "resting, the next run brings the weights back"
            case NotReady(error):
                self._refuse(error)
            case _:
                await self._hear_of_run(event)
                return
        await self._changed(self)

    async def _hear_of_run(self, event: RunEvent) -> None:
        run = self.running.get(event.run_id)
        if run is None:
            return
        if not isinstance(event, Queued):
            self._ahead.pop(run.id, None)
        match event:
            case Finished() | Failed() | Canceled():
                del self.running[run.id]
                await self._left(run, event)
            case _ if run.done:
                pass
            case Queued(ahead=ahead):
                self._ahead[run.id], run.message = ahead, place(ahead)
                run.changed()
                await self._changed(self)
            case Admitted(expected=expected):
                self.state, self._began, self._early_deaths = "ready", True, 0
                self._announce(run, expected)
            case Stepped(step=step):
                run.step = step
                last = ", encoding" if step == run.parameters.steps else ""
                run.message = f"step {step} of {run.parameters.steps}{last}"
                run.changed()

    def _announce(self, run: Run, expected: float | None) -> None:
        """Says that a run is begun, and how long it takes where that is long."""
        run.attempts += 1
        run.started_now()
        if expected is not None and expected >= LONG_SECONDS:
            run.message = f"about {math.ceil(expected / 60)} minutes on {self.description}"
            log.warning("run %s: %s", run.id, run.message)
            run.changed()

    def _refuse(self, error: SdxlLightningError) -> None:
        log.info("%s is not ready: %s", self._assignment.device.name, error)
        self.state, self.refusal, self.loaded = f"not ready: {error}", error, 0.0
        self._early_deaths = 0

    async def _died(self, cause: str, told: str, was_ready: bool) -> None:
        """Gives back what the worker was working on, or fails what was under way twice."""
        log.error("the worker of %s died (%s)", self._assignment.device.name, cause)
        self.state, self.loaded = "restarting", 0.0
        runs = [run for run in self.running.values() if not run.done]
        self.running.clear()
        if not self._began and (runs or not was_ready):
            self._early_deaths += 1
        again = [run for run in runs if run.attempts < MAX_ATTEMPTS]
        for run in again:
            run.status, run.step = Status.QUEUED, 0
            if run.attempts:
                run.notes.append("The worker process died under this run; it was begun anew.")
        self._returned(again)
        if self._early_deaths >= MAX_ATTEMPTS:
            self._refuse(_died_twice(cause, "before it began a run", told))
        for run in runs:
            if run not in again:
                failure = _died_twice(cause, "while the run was on it", told)
                await self._left(run, Failed(run.id, failure))


def _died_twice(cause: str, when: str, told: str) -> RunFailedError:
    return RunFailedError(
        f"The worker process died ({cause}) {when}, and again when it was tried anew. "
        f"{told} may say why."
    )
