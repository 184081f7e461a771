"""Runs on a Ray cluster: Serve's replicas, one for each device, carry them out."""

import importlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from sdxl_lightning_mcp.errors import RunFailedError
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Finished, Run, Status, place
from sdxl_lightning_mcp.runners.base import DeviceStatus, RunnerStatus
from sdxl_lightning_mcp.runners.keeping import KeepingRunner
from sdxl_lightning_mcp.runners.replica import Told
from sdxl_lightning_mcp.runners.supervisor import MAX_ATTEMPTS
from sdxl_lightning_mcp.store import Store

# Only where the extra is installed, and mostly without types.
exceptions: Any = importlib.import_module("ray.exceptions")
serve_exceptions: Any = importlib.import_module("ray.serve.exceptions")

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class RayRunner(KeepingRunner):
    """Has the replicas of a Serve deployment carry out its runs, and begins anew what they lose.

    All that wait are with Serve's router, whose queue tells the autoscaler how many replicas are
    wanted. Use `RayRunner.open(...)`.
    """

    def __init__(
        self,
        replicas: Any,
        store: Store,
        max_queue: int,
        record: Record | None = None,
        ended: Callable[[Run], None] | None = None,
    ) -> None:
        super().__init__(store, max_queue, record, ended)
        self._replicas = replicas
        self._stream = replicas.options(stream=True)
        self._devices: tuple[DeviceStatus, ...] = ()
        self._waiting: dict[str, Run] = {}
        self._moved = anyio.Event()
        self._arrived, self._arrivals = anyio.create_memory_object_stream[Run](float("inf"))

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        replicas: Any,
        store: Store,
        *,
        max_queue: int = 32,
        record: Record | None = None,
        ended: Callable[[Run], None] | None = None,
    ) -> AsyncGenerator["RayRunner"]:
        """Yields the runner; what it has not finished when it is left, the replicas let go of.

        Args:
            replicas: The handle of a deployment of `Replica`.
            store: Where pictures go on this machine.
            max_queue: How many runs may wait.
            record: Where the runs are recorded on this machine.
            ended: Told every run that has ended.
        """
        runner = cls(replicas, store, max_queue, record, ended)
        with runner._arrived, runner._arrivals:
            async with runner._living():
                runner._tasks.start_soon(runner._begin_those_that_arrive)
                runner._tasks.start_soon(runner._look_after_replicas)
                runner._tasks.start_soon(runner._number_the_queue)
                yield runner

    def wake(self) -> None:
        """Nothing: replicas get ready by themselves."""

    async def take(self, runs: Sequence[Run]) -> None:
        """Takes runs in that are recorded already, however many are waiting."""
        for run in runs:
            self._unended[run.id] = run
            self._wait(run)
            run.position = len(self._waiting)
            self._arrived.send_nowait(run)

    def status(self) -> RunnerStatus:
        """What the runner is doing, and each replica's device."""
        waiting, running, _ = self._load()
        first = self._furthest
        return RunnerStatus(first.state, first.description, waiting, running, self._devices)

    async def _let_go(self, run: Run) -> None:
        self._stop(run)
        self._wait_no_more(run)

    def _load(self) -> tuple[int, int, int]:
        running = sum(run.status is Status.RUNNING for run in self._unended.values())
        return len(self._waiting), running, sum(one.ready for one in self._devices)

    # --- replicas --------------------------------------------------------------------------

    @property
    def _furthest(self) -> DeviceStatus:
        """The device that is ready, or else one that may become so."""
        starting = DeviceStatus("ray", "waiting for a replica to start", False, None, 0)
        return min(
            self._devices,
            key=lambda one: (not one.ready, one.state.startswith("not ready")),
            default=starting,
        )

    async def _look_after_replicas(self) -> None:
        """Asks all replicas again and again what they are doing, for ever."""
        while True:
            try:
                answers = await self._replicas.broadcast("status").results_async(
                    timeout_s=5 * LOOK_SECONDS, return_exceptions=True
                )
                found = tuple(one for one in answers if isinstance(one, DeviceStatus))
            except TimeoutError:
                # One hangs: Serve replaces it if that goes on.
                found = self._devices
            except (serve_exceptions.RayServeException, exceptions.RayError):
                # There is none yet, or none any more.
                found = ()
            if found != self._devices:
                self._devices = found
                self._moved.set()
            await anyio.sleep(LOOK_SECONDS)

    # --- one run ---------------------------------------------------------------------------

    async def _begin_those_that_arrive(self) -> None:
        # Not where they were submitted: what is called from within a request belongs to it for
        # Serve, and is canceled when the client hangs up.
        async for run in self._arrivals:
            self._tasks.start_soon(self._see_through, run, self._carry_out)

    async def _carry_out(self, run: Run) -> Finished | None:
        """Brings a run to its end, on as many replicas as that takes."""
        finished: Finished | None = None
        try:
            while finished is None and not run.done:
                finished = await self._finished(run)
        finally:
            self._wait_no_more(run)
        return finished

    async def _finished(self, run: Run) -> Finished | None:
        """The picture; None where the replica was lost under the run, which may begin anew.

        Raises:
            SdxlLightningError: Why there is none.
        """
        attempts, notes = run.attempts, [*run.notes]
        over = False
        response = self._stream.draw.remote(run.id, run.parameters)
        try:
            told: Told
            async for told in response:
                over = told.status in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)
                if told.status is Status.CANCELED:
                    break  # not by us: the replica ends
                run.attempts, run.notes = attempts + told.attempts, [*notes, *told.notes]
                if told.error is not None:
                    raise told.error
                if told.image is not None:
                    return Finished(run.id, told.image)
                self._follow(run, told)
            raise exceptions.RayActorError(error_msg="the replica was stopped")
        except exceptions.RayTaskError:
            raise
        except exceptions.RayError as error:
            self._begin_anew(run, error)
            return None
        finally:
            if not over:
                response.cancel()

    def _follow(self, run: Run, told: Told) -> None:
        """Does as the run on the replica does."""
        if told.status is Status.RUNNING:
            if run.status is Status.QUEUED:
                self._wait_no_more(run)
                run.started_now()
            run.step, run.message = told.step, told.message
            run.changed()
        elif run.status is Status.RUNNING:
            self._return(run)
        elif told.loaded or not self._furthest.ready:
            run.message, run.loaded = told.message, told.loaded
            run.changed()

    def _begin_anew(self, run: Run, error: Exception) -> None:
        log.error("the replica of run %s is lost: %s", run.id, error)
        if run.attempts >= MAX_ATTEMPTS:
            raise RunFailedError(
                "The replica died while the run was on it, and again when it was tried anew. "
                "Ray's log may say why."
            )
        if run.status is Status.RUNNING:
            run.notes.append("The replica died under this run; it was begun anew.")
            self._return(run)

    # --- the queue -------------------------------------------------------------------------

    def _wait(self, run: Run) -> None:
        self._waiting[run.id] = run
        self._moved.set()

    def _return(self, run: Run) -> None:
        run.status, run.step = Status.QUEUED, 0
        self._wait(run)

    def _wait_no_more(self, run: Run) -> None:
        if self._waiting.pop(run.id, None):
            self._moved.set()

    async def _number_the_queue(self) -> None:
        """Tells everyone who waits what they wait for: once for changes that come together."""
        while True:
            await self._moved.wait()
            self._moved = anyio.Event()
            _, running, ready = self._load()
            for position, run in enumerate(self._waiting.values(), start=1):
                message = place(position - 1 + running) if ready else self._furthest.state
                run.position = position
                if run.message != message:
                    run.message, run.loaded = message, 0.0
                    run.changed()
