"""What every runner does, wherever its runs are carried out."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from http_server import Served, serving
from ray_cluster import Cluster
from support import PATIENCE, mini_runner, until, until_step, workers

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.errors import (
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    StorageError,
)
from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.runners.remote import RemoteRunner
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

# So long that a test can act in the middle of it also on a busy machine.
LONG = {"steps": 12, "width": 1536, "height": 1536}


@dataclass
class Place:
    """Where runs are carried out: how a runner for it is opened, and the process that draws."""

    open: Callable[..., AbstractAsyncContextManager[Runner]]
    drawing: Callable[[], list[psutil.Process]]

    def kill(self) -> None:
        (process,) = self.drawing()
        os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def local() -> Place:
    return Place(mini_runner, workers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, "--model", "mini", "--device", "cpu") as served:
        yield served


@pytest.fixture
def remote(server: Served) -> Place:
    def opened(folder: Path, **options: Any) -> AbstractAsyncContextManager[Runner]:
        return RemoteRunner.open([server.url], MINI, Store(folder), **options)

    return Place(opened, lambda: workers(server.process.pid))


@pytest.fixture
def ray(cluster: Cluster) -> Place:
    return Place(cluster.runner, cluster.replicas)


@pytest.fixture(params=["local", "remote", pytest.param("ray", marks=pytest.mark.ray)])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(request.param)


async def test_a_run_tells_how_it_goes_and_ends_in_a_file(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with place.open(tmp_path) as runner:
            run = await runner.submit(parameters, ("a note",))
            assert run.status is Status.QUEUED
            messages = [progress.message async for progress in run.updates()]
            path = await run.finished()
    assert messages[-2:] == ["step 4 of 4, encoding", "succeeded"]
    assert run.status is Status.SUCCEEDED
    assert run.notes == ["a note"]
    assert path.parent == tmp_path
    assert run.id in path.name
    assert read_parameters(path) == parameters


async def test_a_run_that_is_left_behind_ends_with_the_runner(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    async with place.open(tmp_path) as runner:
        run = await runner.submit(parameters)
    with anyio.fail_after(PATIENCE), pytest.raises(RunCanceledError, match="closed"):
        await run.finished()


async def test_what_is_killed_in_mid_run_is_replaced_and_the_run_begun_anew(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with place.open(tmp_path) as runner:
            run = await runner.submit(parameters.model_copy(update=LONG))
            # On a slow machine the next may be begun when the kill comes; the one after it is not.
            following, waiting = [await runner.submit(parameters) for _ in range(2)]
            await until_step(run, 1)
            killed = place.drawing()
            place.kill()
            path = await run.finished()
            await following.finished()
            await waiting.finished()
            assert place.drawing() != killed
    assert path.exists()
    assert [note for note in run.notes if "died under this run; it was begun anew" in note]
    assert waiting.notes == []


async def test_a_run_under_which_it_dies_twice_fails_and_the_next_goes_on(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with place.open(tmp_path) as runner:
            run = await runner.submit(parameters.model_copy(update=LONG))
            for _ in range(2):
                await until_step(run, 1)
                place.kill()
                await until(run, lambda: run.done or run.status is Status.QUEUED)
            with pytest.raises(RunFailedError, match=r"died .*while the run was on it, and again"):
                await run.finished()
            following = await runner.submit(parameters)
            await following.finished()
    assert run.status is Status.FAILED
    assert following.status is Status.SUCCEEDED


async def test_a_canceled_run_ends_and_frees_the_device_for_the_next(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with place.open(tmp_path) as runner:
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
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with place.open(tmp_path, max_queue=2) as runner:
            long = await runner.submit(parameters.model_copy(update=LONG))
            await until_step(long, 1)
            runs: list[Run] = []

            async def fill() -> None:
                while len(runs) < 5:
                    runs.append(await runner.submit(parameters))

            with pytest.raises(QueueFullError, match="2 runs are waiting, the most allowed"):
                await fill()
            await runner.cancel(long)
            for run in runs:
                await run.finished()
            await (await runner.submit(parameters)).finished()
    assert len(runs) >= 2


async def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_begun(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    (tmp_path / "file").write_text("in the way")
    with anyio.fail_after(PATIENCE):
        async with place.open(tmp_path / "file" / "folder") as runner:
            with pytest.raises(StorageError, match="cannot be written: Not a directory"):
                await runner.submit(parameters)
            assert runner.status().waiting == 0


async def test_a_folder_lost_in_mid_run_fails_that_run_and_the_next_goes_on(
    place: Place, tmp_path: Path, parameters: Parameters
) -> None:
    folder = tmp_path / "pictures"
    with anyio.fail_after(PATIENCE):
        async with place.open(folder) as runner:
            run = await runner.submit(parameters.model_copy(update={**LONG, "steps": 4}))
            await until_step(run, 1)
            folder.rmdir()
            folder.write_text("in the way")
            with pytest.raises(StorageError, match="cannot be written"):
                await run.finished()
            folder.unlink()
            await (await runner.submit(parameters)).finished()
    assert run.status is Status.FAILED
