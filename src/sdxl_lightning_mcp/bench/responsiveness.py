"""Whether the server stays responsive: its event loop at work, and the device on a cancel."""

import itertools
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from sdxl_lightning_mcp.bench.plan import Plan
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.base import Runner

TICK = 0.001
# Steps of a run that will not be waited for.
LONG = 12


@asynccontextmanager
async def ticking() -> AsyncGenerator[list[float]]:
    """Wakes up every millisecond; the list is of the seconds by which that came too late."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await anyio.sleep(TICK)
            late.append(time.perf_counter() - before - TICK)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        yield late
        tasks.cancel_scope.cancel()


async def freed_after_cancel(runner: Runner, model: Model, plan: Plan) -> tuple[list[float], float]:
    """How long a device is held by a run that was canceled, at any point of a step.

    The runner must compute one run at a time. Another run waits behind the canceled one; the
    device is free when it begins with that.

    Returns:
        Seconds from each cancel to the beginning of the next run, and the seconds of one step.
    """
    most = min(LONG, int(model.steps.high))
    step = statistics.median(await _step_times(runner, model, plan, most))
    freed: list[float] = []
    for index, number in enumerate(plan.take(plan.rounds)):
        canceled = await runner.submit(plan.parameters(number, model, most))
        following = await runner.submit(plan.parameters(number, model, 1))
        await _reach_step(canceled, 1)
        await anyio.sleep(step * index / plan.rounds)
        asked = time.perf_counter()
        await runner.cancel(canceled)
        await following.finished()
        assert following.started is not None
        freed.append(following.started - asked)
    return freed, step


async def _step_times(runner: Runner, model: Model, plan: Plan, steps: int) -> list[float]:
    """The seconds between the steps of one long run."""
    (number,) = plan.take(1)
    run = await runner.submit(plan.parameters(number, model, steps))
    moments: list[float] = []
    for step in range(1, steps + 1):
        await _reach_step(run, step)
        moments.append(time.perf_counter())
    await run.finished()
    return [later - sooner for sooner, later in itertools.pairwise(moments)]


async def _reach_step(run: Run, step: int) -> None:
    """Waits until that step is done, or the run has ended."""
    async for _ in run.updates():
        if run.step >= step:
            return
