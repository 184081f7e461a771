"""Runs on this machine, through a real worker process."""

import os
import signal
from pathlib import Path

import anyio
import pytest
from PIL import Image
from support import PATIENCE, mini_runner, until, until_step, workers

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.errors import (
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SettingsError,
    StorageError,
    WeightsError,
)
from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Status
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

# So long that a test can act in the middle of it also on a busy machine.
LONG = {"steps": 12, "width": 1536, "height": 1536}


async def test_a_run_tells_how_it_goes_and_ends_in_a_file(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            run = await runner.submit(parameters, ("a note",))
            assert run.status is Status.QUEUED
            messages = [progress.message async for progress in run.updates()]
            path = await run.finished()
    assert messages[0] == "getting ready to draw"
    assert messages[-2:] == ["step 4 of 4, encoding", "succeeded"]
    assert run.status is Status.SUCCEEDED
    assert run.notes == ["a note"]
    assert path.parent == tmp_path
    assert run.id in path.name
    assert read_parameters(path) == parameters


async def test_the_end_is_told_also_to_a_watcher_that_is_busy_when_it_comes(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            run = await runner.submit(parameters)
            seen: list[str] = []
            async for progress in run.updates():
                seen.append(progress.message)
                if progress.message == "step 4 of 4, encoding":
                    await run.finished()
    assert seen[-1] == "succeeded"


async def test_a_run_that_is_left_behind_ends_with_the_runner(
    tmp_path: Path, parameters: Parameters
) -> None:
    async with mini_runner(tmp_path) as runner:
        run = await runner.submit(parameters)
    with anyio.fail_after(PATIENCE), pytest.raises(RunCanceledError, match="closed"):
        await run.finished()


async def test_the_worker_is_gone_when_the_runner_is_left(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path):
            while not workers():
                await anyio.lowlevel.checkpoint()
            (worker,) = workers()
    assert not worker.is_running()


async def test_a_run_whose_picture_is_being_written_ends_with_the_runner_too(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            run = await runner.submit(parameters)
            # Nothing is with the worker any more, and the run has not ended: it is being written.
            while run.step < 4 or runner.status().running:
                await anyio.lowlevel.checkpoint()
        assert run.done


async def test_a_worker_killed_in_mid_run_is_replaced_and_the_run_begun_anew(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            run = await runner.submit(parameters.model_copy(update=LONG))
            waiting = await runner.submit(parameters)
            await until_step(run, 1)
            (worker,) = workers()
            os.kill(worker.pid, signal.SIGKILL)
            path = await run.finished()
            await waiting.finished()
            (replacement,) = workers()
    assert replacement.pid != worker.pid
    assert path.exists()
    assert run.attempts == 2
    assert run.notes == ["The worker process died under this run; it was begun anew."]
    assert waiting.notes == []


async def test_a_run_under_which_the_worker_dies_twice_fails_and_the_next_goes_on(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            run = await runner.submit(parameters.model_copy(update=LONG))
            for _ in range(2):
                await until_step(run, 1)
                (worker,) = workers()
                os.kill(worker.pid, signal.SIGKILL)
                await until(run, lambda: run.done or run.status is Status.QUEUED)
            with pytest.raises(RunFailedError, match=r"worker process died \(signal 9\)"):
                await run.finished()
            following = await runner.submit(parameters)
            await following.finished()
    assert run.status is Status.FAILED
    assert following.status is Status.SUCCEEDED


async def test_a_canceled_run_ends_and_frees_the_device_for_the_next(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            long = await runner.submit(parameters.model_copy(update=LONG))
            queued = await runner.submit(parameters)
            following = await runner.submit(parameters)
            await until_step(long, 1)
            await runner.cancel(queued)
            await runner.cancel(long)
            stopped_at = long.step
            await following.finished()
            for run in (long, queued):
                with pytest.raises(RunCanceledError):
                    await run.finished()
    assert stopped_at < 12
    assert (long.status, queued.status) == (Status.CANCELED, Status.CANCELED)
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_full_queue_says_so_and_loses_nothing(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path, max_queue=2) as runner:
            runs = [await runner.submit(parameters) for _ in range(2)]
            with pytest.raises(QueueFullError, match="2 runs are waiting, the most allowed"):
                await runner.submit(parameters)
            for run in runs:
                await run.finished()
            await (await runner.submit(parameters)).finished()


async def test_the_queue_tells_its_positions(tmp_path: Path, parameters: Parameters) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            runs = [await runner.submit(parameters) for _ in range(3)]
            assert [run.position for run in runs] == [1, 2, 3]
            assert runner.status().waiting == 3
            for run in runs:
                await run.finished()
            assert runner.status().state == "ready"
            assert "float" in (runner.status().device or "")


async def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_begun(
    tmp_path: Path, parameters: Parameters
) -> None:
    (tmp_path / "file").write_text("in the way")
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path / "file" / "folder") as runner:
            with pytest.raises(StorageError, match="cannot be written: Not a directory"):
                await runner.submit(parameters)
            assert runner.status().waiting == 0


async def test_a_folder_lost_in_mid_run_fails_that_run_and_the_next_goes_on(
    tmp_path: Path, parameters: Parameters
) -> None:
    folder = tmp_path / "pictures"
    with anyio.fail_after(PATIENCE):
        async with mini_runner(folder) as runner:
            run = await runner.submit(parameters.model_copy(update=LONG))
            await until_step(run, 1)
            folder.rmdir()
            folder.write_text("in the way")
            with pytest.raises(StorageError, match="cannot be written"):
                await run.finished()
            folder.unlink()
            await (await runner.submit(parameters)).finished()
    assert run.status is Status.FAILED


async def test_weights_that_are_not_right_fail_the_run_with_the_reason(
    tmp_path: Path, parameters: Parameters
) -> None:
    from dataclasses import replace

    files = tuple(replace(one, source=tmp_path / "nowhere") for one in MINI.checkpoint.files)
    missing = replace(MINI, checkpoints=(replace(MINI.checkpoint, files=files),))
    with anyio.fail_after(PATIENCE):
        devices = [Device("cpu")] * 2
        async with LocalRunner.open(missing, Store(tmp_path), devices=devices) as runner:
            for _ in range(4):
                run = await runner.submit(parameters)
                with pytest.raises(WeightsError, match=r"nowhere.* is missing"):
                    await run.finished()


async def test_a_device_that_is_not_here_fails_the_run_with_those_that_are(
    tmp_path: Path, parameters: Parameters
) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    with anyio.fail_after(PATIENCE):
        async with LocalRunner.open(MINI, Store(tmp_path), devices=[Device("mps")]) as runner:
            run = await runner.submit(parameters)
            with pytest.raises(SettingsError, match=r"'mps' is not seen.*here is: .*cpu"):
                await run.finished()


async def test_weights_leave_after_an_idle_time_and_the_next_run_brings_them_back(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with LocalRunner.open(
            MINI, Store(tmp_path), devices=[Device("cpu")], idle_seconds=0.05
        ) as runner:
            first = await runner.submit(parameters)
            path = await first.finished()
            while not runner.status().state.startswith("resting"):
                await anyio.lowlevel.checkpoint()
            # No run waits for it: it is ready all the same.
            assert runner.status().devices[0].ready
            again = await runner.submit(parameters)
            assert first.image is not None
            with Image.open(await again.finished()) as after, Image.open(path) as before:
                assert after.tobytes() == before.tobytes()
            assert again.notes == []
