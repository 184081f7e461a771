"""The worker process, spoken to over its pipe as a runner does."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from support import PATIENCE, workers

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Canceled, Event, Finished, Ready, Stepped
from sdxl_lightning_mcp.runners.process import WorkerProcess
from sdxl_lightning_mcp.runners.wire import Assignment, Cancel, Submit

pytestmark = pytest.mark.anyio

Kind = TypeVar("Kind")


@asynccontextmanager
async def worker() -> AsyncIterator[WorkerProcess]:
    started = await WorkerProcess.start(Assignment(model=MINI, device=Device("cpu")))
    try:
        yield started
    finally:
        await started.end()


async def next_of(events: AsyncIterator[Event], kind: type[Kind]) -> Kind:
    async for event in events:
        assert not isinstance(event, Finished) or kind is Finished
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the worker ended without {kind.__name__}")


async def test_a_canceled_run_is_let_go_at_the_next_step_and_never_finished(
    parameters: Parameters,
) -> None:
    long = parameters.model_copy(update={"steps": 12, "width": 1536, "height": 1536})
    with anyio.fail_after(PATIENCE):
        async with worker() as told:
            events = told.events()
            ready = await next_of(events, Ready)
            await told.send(Submit("a", long))
            await next_of(events, Stepped)
            await told.send(Cancel("a"))
            assert await next_of(events, Canceled) == Canceled("a")
            await told.send(Submit("b", parameters))
            finished = await next_of(events, Finished)
    assert ready.capacity == 2
    assert finished.run_id == "b"


@pytest.mark.parametrize("rest", [b"", b"ab", b"\0\0\0\x64abc"], ids=["none", "header", "body"])
async def test_a_pipe_that_ends_in_the_middle_of_a_word_ends_the_worker(rest: bytes) -> None:
    command = [sys.executable, "-m", "sdxl_lightning_mcp.runners.worker"]
    with anyio.fail_after(PATIENCE):
        async with await anyio.open_process(command) as process:
            assert process.stdin is not None
            await process.stdin.send(rest)
            await process.stdin.aclose()
            await process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults in Linux's way")
async def test_a_worker_on_a_cpu_keeps_the_memory_of_a_picture_for_the_next(
    parameters: Parameters,
) -> None:
    def page_faults() -> int:
        (process,) = workers()
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: minflt
        return int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[7])

    large = parameters.model_copy(update={"width": 1024, "height": 1024, "steps": 1})
    faults: list[int] = []
    with anyio.fail_after(PATIENCE):
        async with worker() as told:
            events = told.events()
            for name in "abc":
                await told.send(Submit(name, large))
                await next_of(events, Finished)
                faults.append(page_faults())
    assert faults[2] - faults[1] < 20_000, faults
