"""Runs on other servers of ours: the nearest that is ready, and another where it is lost."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import httpx2

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import (
    RunFailedError,
    SdxlLightningError,
    UnreachableError,
)
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Finished, Run, Status
from sdxl_lightning_mcp.runners.answers import Full, Lost, unreachable
from sdxl_lightning_mcp.runners.base import DeviceStatus, RunnerStatus
from sdxl_lightning_mcp.runners.keeping import KeepingRunner
from sdxl_lightning_mcp.runners.upstream import ITS_OWN_TROUBLE, State, Upstream
from sdxl_lightning_mcp.store import Store

# A run under which so many servers were lost is taken to be what they are lost by.
MAX_LOSSES = 3
# Servers whose answers take up to so much longer than the nearest one's are as near.
AS_NEAR_SECONDS = 0.005


class RemoteRunner(KeepingRunner):
    """Has other servers carry out its runs, and moves them where one is lost.

    A run is a pure function of its parameters, so another server draws the same picture. Runs are
    given away in their order; where every server is full they wait here. Use
    `RemoteRunner.open(...)`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        token: str | None,
        model: Model,
        store: Store,
        patience_seconds: float,
        max_queue: int,
        record: Record | None,
        ended: Callable[[Run], None] | None,
    ) -> None:
        super().__init__(store, max_queue, record, ended)
        self._patience_seconds = patience_seconds
        self._upstreams = [Upstream(url, token, model, self._upstream_changed) for url in urls]
        self._changed = anyio.Event()
        # Whether any server was usable once: then it may come back.
        self._met_one = False
        # Fair: whoever came first is given away first.
        self._turn = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        urls: Sequence[str],
        model: Model,
        store: Store,
        *,
        token: str | None = None,
        patience_seconds: float = 30,
        max_queue: int = 32,
        record: Record | None = None,
        ended: Callable[[Run], None] | None = None,
    ) -> AsyncGenerator["RemoteRunner"]:
        """Yields the runner, which looks in the background how the servers are.

        Args:
            urls: Where they listen, http://gpu-box:8000.
            model: What they must serve; another one is not used.
            store: Where pictures go on this machine.
            token: The key that all of them know.
            patience_seconds: How long runs wait for a server to come back where all are lost, if
                there was one before.
            max_queue: How many runs may wait, here and there.
            record: Where the runs are recorded on this machine.
            ended: Told every run that has ended.
        """
        runner = cls(urls, token, model, store, patience_seconds, max_queue, record, ended)
        async with AsyncExitStack() as stack:
            for upstream in runner._upstreams:
                await stack.enter_async_context(upstream.client)
            async with runner._living():
                for upstream in runner._upstreams:
                    runner._tasks.start_soon(upstream.watch)
                yield runner

    def wake(self) -> None:
        """Looks at once how the servers are, which get ready by themselves."""
        for upstream in self._upstreams:
            upstream.hurry()

    async def take(self, runs: Sequence[Run]) -> None:
        """Takes runs in that are recorded already, however many are waiting."""
        for run in runs:
            self._unended[run.id] = run
            run.position = self._load()[0]
            self._tasks.start_soon(self._see_through, run, self._carry_out)

    def status(self) -> RunnerStatus:
        """What the runner is doing, and each of its servers."""
        waiting, running, _ = self._load()
        devices = tuple(
            DeviceStatus(
                one.url,
                one.answer,
                one.state is State.READY,
                f"remote, {one.url}",
                len(one.runs),
            )
            for one in self._upstreams
        )
        first = devices[self._upstreams.index(min(self._upstreams, key=_distance))]
        return RunnerStatus(first.state, first.description, waiting, running, devices)

    async def _let_go(self, run: Run) -> None:
        self._stop(run)

    def _load(self) -> tuple[int, int, int]:
        waiting = sum(run.status is Status.QUEUED for run in self._unended.values())
        running = sum(run.status is Status.RUNNING for run in self._unended.values())
        return waiting, running, sum(one.state is State.READY for one in self._upstreams)

    # --- one run ---------------------------------------------------------------------------

    async def _carry_out(self, run: Run) -> Finished:
        """Brings a run to its end, on as many servers as that takes."""
        try:
            finished = await self._finished(run)
        finally:
            for upstream in self._upstreams:
                upstream.runs.pop(run.id, None)
        # Which of its checkpoints it draws with, the server decides.
        run.parameters = finished.image.parameters
        return finished

    async def _finished(self, run: Run) -> Finished:
        troubles: dict[Upstream, SdxlLightningError] = {}
        losses = 0
        while True:
            upstream, response = await self._begun(run, troubles)
            try:
                return Finished(run.id, await upstream.follow(run, response))
            except ITS_OWN_TROUBLE as error:
                troubles[upstream] = error
            except Lost as lost:
                running = run.status is Status.RUNNING
                await upstream.check()
                # Where runs only waited, or the server was lost with all it had, it is not them.
                losses += running or upstream.usable
                if losses == MAX_LOSSES:
                    raise RunFailedError(
                        f"This picture was lost {losses} times, the last at {upstream.url}, which "
                        f"{lost}."
                    ) from lost
                _begin_anew(run, upstream, lost)
            except anyio.get_cancelled_exc_class():
                await self._given_up(run, upstream)
                raise
            del upstream.runs[run.id]

    async def _begun(
        self, run: Run, troubles: dict[Upstream, SdxlLightningError]
    ) -> tuple[Upstream, httpx2.Response]:
        """Gives the run to the nearest server that takes it; waits as long as all are full.

        Raises:
            UnreachableError: No server can be had.
            SdxlLightningError: No server can carry it out.
        """
        async with self._turn:
            while True:
                upstream = await self._nearest(run, troubles)
                upstream.runs[run.id] = run
                upstream.rouse()
                try:
                    return upstream, await upstream.begin(run)
                except Full as full:
                    upstream.full_until = anyio.current_time() + full.seconds
                except Lost as lost:
                    await upstream.check()
                    if upstream.usable:  # and would answer so again
                        troubles[upstream] = RunFailedError(f"{upstream.url}: {lost}")
                except anyio.get_cancelled_exc_class():
                    await self._given_up(run, upstream)
                    raise
                # Only now: as long as it has a run, it is looked at often.
                del upstream.runs[run.id]

    async def _given_up(self, run: Run, upstream: Upstream) -> None:
        """Nobody waits for the run any more, unless this server goes on with it when it is back."""
        if run.done or self._record is None or not self._record.resumes:
            await upstream.withdraw(run)

    async def _nearest(self, run: Run, troubles: dict[Upstream, SdxlLightningError]) -> Upstream:
        until = anyio.current_time() + (self._patience_seconds if self._met_one else 0)
        looked = False
        while True:
            changed = self._changed
            usable = [one for one in self._upstreams if one.usable and one not in troubles]
            now = anyio.current_time()
            free = [one for one in usable if one.full_until <= now]
            if free:
                return min(free, key=lambda one: (*_distance(one), len(one.runs)))
            if usable:
                self._tell_those_who_wait("every server is full")
                with anyio.move_on_after(min(one.full_until for one in usable) - now):
                    await changed.wait()
            elif any(one.state is State.UNKNOWN for one in self._upstreams):
                await changed.wait()
            elif troubles:
                raise next(reversed(troubles.values()))
            elif not looked:
                # What is known may be old: before anything is said, all are asked.
                looked = True
                async with anyio.create_task_group() as tasks:
                    for upstream in self._upstreams:
                        tasks.start_soon(upstream.check)
            else:
                self._tell_those_who_wait("no server is there; waiting for one to come back")
                with anyio.move_on_after(until - now) as patience:
                    await changed.wait()
                if patience.cancelled_caught:
                    answers = [f"{one.url} {one.answer}" for one in self._upstreams]
                    raise UnreachableError(f"No server can draw this. {unreachable(answers)}")

    def _tell_those_who_wait(self, why: str) -> None:
        given = {run_id for upstream in self._upstreams for run_id in upstream.runs}
        here = (run for run in self._unended.values() if not run.done and run.id not in given)
        for position, run in enumerate(here, start=1):
            message = f"{why}, {position - 1} ahead" if position > 1 else why
            if (run.position, run.message) != (position, message):
                run.position, run.message = position, message
                run.changed()

    def _upstream_changed(self) -> None:
        self._met_one = self._met_one or any(one.usable for one in self._upstreams)
        self._changed.set()
        self._changed = anyio.Event()


def _distance(upstream: Upstream) -> tuple[int, int]:
    """The better first: by state, and then by how long an answer takes, roughly."""
    return upstream.state, int(upstream.round_trip / AS_NEAR_SECONDS)


def _begin_anew(run: Run, upstream: Upstream, lost: Lost) -> None:
    run.status, run.step, run.message = Status.QUEUED, 0, "moving to another server"
    run.notes.append(f"{upstream.url} was lost under this run ({lost}); it was begun anew.")
    run.changed()
