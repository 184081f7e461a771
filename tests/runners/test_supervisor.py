"""Workers that load, share a queue, die and are refused, each a real process."""

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import pytest
import torch
from driver import stand_in
from support import PATIENCE, mini_runner, until, until_step, workers

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.errors import QueueFullError, RunCanceledError, RunFailedError
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

LONG_QUEUE = 5000
LONG = {"steps": 12, "width": 1024, "height": 1024}
ANEW = "The worker process died under this run; it was begun anew."


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def runner(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalRunner]:
    """One worker for the tests that need not see it start."""
    folder = tmp_path_factory.mktemp("pictures")
    async with mini_runner(folder, max_batch=4, max_queue=LONG_QUEUE) as shared:
        yield shared


async def until_killed(count: int) -> None:
    """Waits for the worker that is there, kills it, and sees it gone; as many in a row."""
    for _ in range(count):
        while not (found := workers()):
            await anyio.lowlevel.checkpoint()
        os.kill(found[0].pid, signal.SIGKILL)
        while found[0].is_running():
            await anyio.lowlevel.checkpoint()


def begun(runs: Sequence[Run]) -> list[Run]:
    """The runs in the order in which they were begun."""
    return sorted(runs, key=lambda run: run.started or 0.0)


async def test_two_workers_share_a_queue_beside_a_device_that_is_refused_and_one_takes_over(
    tmp_path: Path, parameters: Parameters
) -> None:
    absent = Device("cuda" if sys.platform == "darwin" else "mps")
    cpu = Device("cpu", sharers=2)
    with anyio.fail_after(PATIENCE):
        async with LocalRunner.open(MINI, Store(tmp_path), devices=[absent, cpu, cpu]) as runner:
            runs: list[Run] = []

            def drawing() -> list[Run]:
                return [run for run in runs if run.status is Status.RUNNING]

            def both_draw() -> bool:
                return len(drawing()) == 2 and all(run.step < 5 for run in drawing())

            # One worker may draw many while the other loads.
            long = parameters.model_copy(update=LONG)
            while not both_draw():
                runs.extend([await runner.submit(long) for _ in range(2)])
                await until(runs[-2], both_draw)
            # They stand still while it is looked at who waits for whom.
            two, both = drawing(), workers()
            for worker in both:
                worker.suspend()
            for run in runs:
                if run.status is Status.QUEUED:
                    await runner.cancel(run)
            waiting = [await runner.submit(parameters) for _ in range(3)]
            assert [run.message for run in waiting] == [f"queued, {n} ahead" for n in (2, 3, 4)]
            status = runner.status()
            assert (status.state, status.waiting, status.running) == ("ready", 3, 2)
            assert [device.name for device in status.devices] == [absent.name, "cpu", "cpu"]
            assert "is not seen by torch" in status.devices[0].state
            share = max(1, torch.get_num_threads() // 2)
            assert f"{share} threads" in (status.devices[1].description or "")
            # The refused one is not tried again with every run.
            assert workers() == both
            both[0].kill()
            both[1].resume()
            for run in (*two, *waiting):
                assert (await run.finished()).exists()
    kept, again = sorted(two, key=lambda run: run.attempts)
    assert (kept.attempts, kept.notes) == (1, [])
    assert (again.attempts, again.notes) == (2, [ANEW])
    # It went back to the front: those that waited behind it began after it.
    assert begun([*waiting, again]) == [again, *waiting]


async def test_when_the_last_device_is_refused_those_who_wait_are_told_why_and_the_next_tries_anew(
    tmp_path: Path, parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "driver", monkeypatch)
    devices = [Device("cuda:0"), Device("cuda:1")]
    with anyio.fail_after(PATIENCE):
        async with LocalRunner.open(MINI, Store(tmp_path), devices=devices) as runner:
            for _ in range(2):
                runs = [await runner.submit(parameters) for _ in range(3)]
                for run in runs:
                    with pytest.raises(RunFailedError, match="cannot start: it would see None"):
                        await run.finished()
                while workers():
                    await anyio.lowlevel.checkpoint()


async def test_a_worker_killed_while_loading_is_replaced_once_then_the_run_fails_with_the_reason(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            run = await runner.submit(parameters)
            await until_killed(2)
            with pytest.raises(RunFailedError, match=r"died \(signal 9\) before it began a run"):
                await run.finished()
            following = await runner.submit(parameters)
            await until_killed(1)
            await following.finished()
    assert (run.attempts, following.attempts) == (0, 1)
    assert following.notes == []


async def test_both_runs_on_a_worker_that_is_killed_are_begun_anew_in_their_order(
    runner: LocalRunner, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        long = parameters.model_copy(update=LONG)
        runs = [await runner.submit(long), await runner.submit(long)]
        for run in runs:
            await until_step(run, 1)
        os.kill(workers()[0].pid, signal.SIGKILL)
        behind = [await runner.submit(parameters) for _ in range(2)]
        for run in (*runs, *behind):
            await run.finished()
    assert [run.notes for run in runs] == [[ANEW], [ANEW]]
    assert [run.notes for run in behind] == [[], []]
    assert begun([*behind, *runs]) == [*runs, *behind]


async def test_sizes_that_cannot_share_a_batch_have_their_turns_and_all_are_drawn(
    runner: LocalRunner, parameters: Parameters
) -> None:
    sides = [256, 512, 1024, 256, 512, 1024, 256, 256]
    with anyio.fail_after(PATIENCE):
        runs = [
            await runner.submit(parameters.model_copy(update={"width": side, "height": side}))
            for side in sides
        ]
        for run in runs:
            await run.finished()
    assert {run.status for run in runs} == {Status.SUCCEEDED}
    order = [run.parameters.width for run in begun(runs)]
    # Those that share a call may pass others by, but no size is begun before one that came first.
    assert [*dict.fromkeys(order)] == [256, 512, 1024]
    for side in (256, 512, 1024):
        of_it = [run for run in runs if run.parameters.width == side]
        assert begun(of_it) == of_it


async def test_to_cancel_twice_is_to_cancel_once_and_after_the_end_it_changes_nothing(
    runner: LocalRunner, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        canceled = await runner.submit(parameters.model_copy(update=LONG))
        await until_step(canceled, 1)
        for _ in range(2):
            await runner.cancel(canceled)
        drawn = await runner.submit(parameters)
        path = await drawn.finished()
        await runner.cancel(drawn)
    assert (canceled.status, drawn.status) == (Status.CANCELED, Status.SUCCEEDED)
    assert path.exists()


async def test_a_queue_of_thousands_costs_each_run_as_little_as_a_short_one(
    runner: LocalRunner, parameters: Parameters
) -> None:
    long = parameters.model_copy(update=LONG)
    runs: list[Run] = []

    async def submitted(count: int) -> float:
        """Seconds of this process's own work for so many more runs."""
        before = time.process_time()
        runs.extend([await runner.submit(long) for _ in range(count)])
        return time.process_time() - before

    with anyio.fail_after(PATIENCE):
        await (await runner.submit(parameters)).finished()
        first = await submitted(500)
        await submitted(LONG_QUEUE - 1000)
        last = await submitted(500)
        assert last < 4 * first
        while runner.status().waiting < LONG_QUEUE:
            await submitted(1)
        with pytest.raises(QueueFullError, match=r"5000 runs .* Try again in about \d+ s\."):
            await runner.submit(parameters)
        assert runs[-1].message == "queued, about 5000 ahead"
        before = time.process_time()
        for run in reversed(runs):
            await runner.cancel(run)
        assert time.process_time() - before < 50 * first
        await (await runner.submit(parameters)).finished()


async def test_thousands_that_wait_all_end_with_the_runner(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path, max_queue=LONG_QUEUE) as runner:
            runs = [await runner.submit(parameters) for _ in range(LONG_QUEUE)]
        assert all(run.done for run in runs)
        with pytest.raises(RunCanceledError, match="closed"):
            await runs[-1].finished()
