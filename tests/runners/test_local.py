"""Runs on this machine, through a real worker process."""

from pathlib import Path

import anyio
import pytest
from PIL import Image
from support import PATIENCE, mini_runner, workers

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.errors import (
    SettingsError,
    WeightsError,
)
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio


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


async def test_the_queue_tells_its_positions(tmp_path: Path, parameters: Parameters) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            runs = [await runner.submit(parameters) for _ in range(3)]
            assert [run.position for run in runs] == [1, 2, 3]
            assert runs[0].message == "getting ready to draw"
            assert runner.status().waiting == 3
            for run in runs:
                await run.finished()
            assert runner.status().state == "ready"
            assert "float" in (runner.status().device or "")


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
