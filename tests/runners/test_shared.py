"""Servers that share an engine: processes or runners of this one, and always one engine."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client
from support import (
    HELLO,
    INITIALIZED,
    PATIENCE,
    command,
    say,
    started,
    stdio_server,
    until,
    until_step,
)

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.devices import Device, find_devices
from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.errors import RunFailedError, SettingsError, WeightsError
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.runners.shared.attaching import Sharing
from sdxl_lightning_mcp.runners.shared.places import Facts, Place, meeting_folder, place_of
from sdxl_lightning_mcp.runners.shared.turns import Turns
from sdxl_lightning_mcp.runners.wire import Assignment
from sdxl_lightning_mcp.server import choose_model, open_runner, shared_worker
from sdxl_lightning_mcp.settings import Speed

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="nothing is shared on Windows"),
]

LONG = {"steps": 12, "width": 1024, "height": 1024}
SLOW = {"steps": 12, "width": 1536, "height": 1536}
SMALL = {"prompt": "the sea", "width": 512, "height": 512}
ANEW = "The worker process died under this run; it was begun anew."
WORKER = "sdxl_lightning_mcp.runners.shared.worker"
ASSIGNMENT = Assignment(model=MINI, device=Device("cpu"))


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the servers of a test meet; what runs there is ended afterwards."""
    # A socket's address is short, and the paths that pytest makes are long.
    runtime = Path(tempfile.mkdtemp(prefix="meet-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("SDXL_LIGHTNING_PRIVATE", "0")
    monkeypatch.setenv("SDXL_LIGHTNING_ENGINE_IDLE_MINUTES", "0")
    yield meeting_folder()
    for engine in engines(runtime):
        engine.kill()
    shutil.rmtree(runtime)


def engines(folder: Path) -> list[psutil.Process]:
    """The shared workers that live, as the system knows them."""
    found: list[psutil.Process] = []
    for one in psutil.process_iter(["cmdline"]):
        words: list[str] = one.info["cmdline"] or []
        if WORKER in words and any(word.startswith(str(folder)) for word in words):
            found.append(one)
    return found


async def seen(found: Callable[[], Any]) -> Any:
    """What is found, as soon as there is something.

    Neither files nor processes of others tell that they have changed, and looking all the time
    would take the processor from an engine that gives way to everyone.
    """
    while not (there := found()):
        await anyio.sleep(0.02)
    return there


@asynccontextmanager
async def server(pictures: Path, model: Model | None = None) -> AsyncIterator[Runner]:
    """What a server over stdio has: a queue of its own, and a worker that it shares."""
    settings = load_settings(output_dir=str(pictures))
    start = shared_worker(settings, lasting=True)
    async with open_runner(settings, model or choose_model(settings), start=start) as runner:
        yield runner


def stdio(folder: Path, pictures: Path) -> Any:
    return stdio_server(
        *("--output-dir", str(pictures)),
        XDG_RUNTIME_DIR=str(folder.parent),
        SDXL_LIGHTNING_PRIVATE="0",
        SDXL_LIGHTNING_ENGINE_IDLE_MINUTES="0",
    )


async def test_three_clients_share_one_engine_and_each_stops_only_what_is_its_own(
    folder: Path, tmp_path: Path
) -> None:
    told: dict[str, list[str | None]] = {
        name: [] for name in ("first", "second", "third", "late", "stopped")
    }

    async def draw(client: Client, name: str, wish: dict[str, object] = SMALL) -> None:
        async def tell(_: float, __: float | None, message: str | None) -> None:
            told[name].append(message)

        result = await client.call_tool("generate_image", wish, progress_callback=tell)
        assert not result.is_error

    async def draw_until_stopped() -> None:
        with stopping:
            await draw(first, "stopped", {**SLOW, "prompt": "the sea"})

    with anyio.fail_after(PATIENCE):
        async with (
            Client(stdio(folder, tmp_path / "0"), mode="legacy") as first,
            Client(stdio(folder, tmp_path / "1"), mode="legacy") as second,
        ):
            await draw(first, "first")
            (engine,) = engines(folder)
            async with Client(stdio(folder, tmp_path / "2"), mode="legacy") as third:
                await draw(third, "late")
                stopping = anyio.CancelScope()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(draw_until_stopped)
                    await seen(lambda: "step 1 of 12" in told["stopped"])
                    tasks.start_soon(draw, second, "second")
                    tasks.start_soon(draw, third, "third")
                    await seen(lambda: told["second"] and told["third"][1:])
                    stopping.cancel()
            await draw(first, "first")
            assert engines(folder) == [engine]
        # The last has left, and an idle time of zero minutes is over.
        await seen(lambda: not engines(folder) and not [*folder.iterdir()])
    assert stopping.cancelled_caught
    assert [len([*(tmp_path / name).iterdir()]) for name in "012"] == [2, 1, 2]
    assert {"queued, 1 ahead", "queued, 2 ahead"} & {*told["third"]}
    # Who comes later waits, once it is attached, for nothing to be loaded.
    words = {str(message).split()[0] for message in told["late"] if message != "starting"}
    assert words <= {"queued,", "reading", "step", "succeeded"}
    assert "opening mini-1" in told["first"]


async def test_a_server_killed_in_mid_run_lets_go_of_it_and_another_goes_on(
    folder: Path, tmp_path: Path, parameters: Parameters
) -> None:
    call = {"name": "generate_image", "arguments": {**SLOW, "prompt": "the sea"}}
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process, server(tmp_path / "mine") as runner:
            await say(process, HELLO, INITIALIZED)
            await say(process, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
            (log,) = await seen(lambda: [*folder.glob("*.log")])
            await seen(lambda: "a run is begun" in log.read_text())
            run = await runner.submit(parameters)
            await until(run, lambda: run.message == "queued, 1 ahead")
            process.kill()
            await run.finished()
            assert "a server has left, and 1 runs with it; 1 are here" in log.read_text()
            assert len(engines(folder)) == 1
    assert run.notes == []


async def test_an_engine_killed_in_mid_run_is_replaced_by_one_and_all_runs_are_begun_anew(
    folder: Path, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with server(tmp_path / "a") as a, server(tmp_path / "b") as b:
            long = parameters.model_copy(update=LONG)
            runs = [await a.submit(long), await b.submit(long), await a.submit(parameters)]
            await until_step(runs[0], 1)
            (engine,) = engines(folder)
            engine.kill()
            for run in runs:
                assert (await run.finished()).exists()
            (replacement,) = engines(folder)
    assert replacement.pid != engine.pid
    again = [run for run in runs if run.attempts == 2]
    assert again
    assert all(run.notes == ([ANEW] if run in again else []) for run in runs)


async def test_a_series_of_one_server_keeps_no_other_waiting_and_all_know_their_place(
    folder: Path, tmp_path: Path, parameters: Parameters
) -> None:
    messages: dict[str, list[str]] = {}

    async def watch(run: Run) -> None:
        messages[run.id] = [progress.message async for progress in run.updates()]

    with anyio.fail_after(PATIENCE):
        async with server(tmp_path / "a") as a, server(tmp_path / "b") as b:
            series = [await a.submit(parameters.model_copy(update=SLOW))]
            series += [await a.submit(parameters) for _ in range(3)]
            await until_step(series[0], 1)
            single = await b.submit(parameters)
            async with anyio.create_task_group() as tasks:
                for run in (*series, single):
                    tasks.start_soon(watch, run)
    order = sorted((*series, single), key=lambda run: run.started or 0)
    assert order == [series[0], single, *series[1:]]
    assert "queued, 1 ahead" in messages[single.id]
    # It was next, and then somebody came whose turn it was; those behind it move with it.
    assert "queued, 2 ahead" in messages[series[1].id]
    assert "queued, 3 ahead" in messages[series[2].id]


async def test_what_cannot_be_loaded_is_told_to_all_and_the_next_try_is_a_fresh_one(
    folder: Path, tmp_path: Path, parameters: Parameters
) -> None:
    files = MINI.checkpoint.files
    config = next(file for file in files if file.role == "unet/config.json")
    own = replace(config, source=tmp_path)
    others = tuple(file for file in files if file is not config)
    model = replace(MINI, checkpoints=(replace(MINI.checkpoint, files=(own, *others)),))
    with anyio.fail_after(PATIENCE):
        async with server(tmp_path / "a", model) as a, server(tmp_path / "b", model) as b:
            for runner in (a, b):
                with pytest.raises(WeightsError, match=r"config.json is missing"):
                    await (await runner.submit(parameters)).finished()
            (tmp_path / own.path).parent.mkdir()
            assert isinstance(config.source, Path)
            shutil.copy(config.source / config.path, tmp_path / own.path)
            for runner in (a, b):
                await (await runner.submit(parameters)).finished()
            assert len(engines(folder)) == 1


async def test_generate_and_doctor_use_the_engine_that_runs_and_leave_none_where_none_does(
    folder: Path, tmp_path: Path, parameters: Parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDXL_LIGHTNING_ENGINE_IDLE_MINUTES", "10")
    generate = ("generate", "the sea", "--width", "512", "--height", "512", "--output-dir")

    def typed(*words: str) -> str:
        ended = command(*words)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    with anyio.fail_after(PATIENCE):
        await anyio.to_thread.run_sync(typed, *generate, str(tmp_path / "alone"))
        assert (engines(folder), [*folder.iterdir()]) == ([], [])
        async with server(tmp_path / "a") as runner:
            await (await runner.submit(parameters)).finished()
        # The server has ended, and what it started waits for the next one.
        (engine,), (log,) = engines(folder), [*folder.glob("*.log")]
        await anyio.to_thread.run_sync(typed, *generate, str(tmp_path / "with"))
        assert log.read_text().count("a run is begun") == 2
        told = await anyio.to_thread.run_sync(typed, "doctor")
        assert log.read_text().count("a run is begun") == 3
        assert engines(folder) == [engine]
    assert f"mini on auto for 0 servers (log {log}; to end it: kill {engine.pid})" in told


async def test_of_several_engines_started_at_once_one_goes_on_whatever_a_dead_one_left(
    folder: Path,
) -> None:
    place = Place(folder, "0" * 16)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.socket))
    place.lock.touch()
    place.tell(Facts(1, "mini", "cpu", 3))
    begun = [
        subprocess.Popen(
            [sys.executable, "-m", WORKER, str(folder), place.key], stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    with anyio.fail_after(PATIENCE):
        said: list[bytes] = []
        for process in begun:
            assert process.stdout is not None
            # It closes it when it listens, and not only when it ends.
            said.append(await anyio.to_thread.run_sync(process.stdout.read))
            process.stdout.close()
        assert sorted(said) == [b"listening", b"taken", b"taken", b"taken"]
        (engine,) = engines(folder)
        assert engine.pid == begun[said.index(b"listening")].pid
        async with await anyio.connect_unix(place.socket) as stream:
            assert await stream.receive(1) == b"\x01"
        engine.kill()
    for process in begun:
        process.wait()


async def test_an_engine_that_does_not_answer_or_cannot_listen_is_told_with_the_cure(
    folder: Path,
) -> None:
    sharing = Sharing(folder, {}, linger_seconds=0, patience=1)
    place = place_of(folder, ASSIGNMENT, {})
    lock = place.hold()
    assert lock is not None
    place.tell(Facts(4321, "mini", "cpu", 1))
    with anyio.fail_after(PATIENCE):
        with pytest.raises(RunFailedError, match=r"not answer \(process 4321\).* kill -9 4321; or"):
            await sharing.attach(ASSIGNMENT)
        place.clear()
        lock.release()
        place.socket.mkdir()
        with pytest.raises(RunFailedError, match=r"ended before .*--private does without"):
            await replace(sharing, patience=PATIENCE).attach(ASSIGNMENT)
    assert "Address already in use" in place.log.read_text()
    assert stat.S_IMODE(place.log.stat().st_mode) == 0o600


def test_what_differs_in_anything_that_is_drawn_does_not_share(tmp_path: Path) -> None:
    def place(environment: dict[str, str] | None = None, **changed: Any) -> Place:
        return place_of(tmp_path, replace(ASSIGNMENT, **changed), environment or {})

    own = tmp_path / "unet.safetensors"
    own.write_text("one")
    file = replace(MINI.checkpoint.files[0], source=tmp_path, path=own.name)
    mine = replace(MINI, checkpoints=(MINI.checkpoint.with_files(file),))
    before = place(model=mine)
    own.write_text("another")
    here = place()
    assert place(log_level="debug") == here
    by_another_name = replace(MINI, notes=("Drawn by mini, because",), selector="mini")
    assert place(model=by_another_name) == here
    others = [
        before,
        place(model=mine),
        place({"CUDA_VISIBLE_DEVICES": "1"}),
        place(speed=Speed.EXACT),
        place(max_batch=2),
        place(idle_seconds=1.0),
        place(preview_bytes=2000),
        *(place(device=device) for device in find_devices("cpu,cpu", [])),
    ]
    assert len({here, *others}) == 1 + len(others)


def test_a_folder_that_others_can_reach_is_refused_with_the_cure(folder: Path) -> None:
    folder.chmod(0o755)
    ended = command()
    assert ended.returncode == 2
    assert f"open to others (mode 755): chmod 700 {folder}, or start with --private" in ended.stderr
    assert command("--private", stdin=subprocess.DEVNULL).returncode == 0
    folder.rmdir()
    folder.symlink_to(tempfile.gettempdir())
    with pytest.raises(SettingsError, match=r"not a folder of your own: remove it, or start with"):
        meeting_folder()
    if os.getuid() == 0:
        folder.unlink()
        folder.mkdir(mode=0o700)
        os.chown(folder, 1, 1)
        with pytest.raises(SettingsError, match=r"not a folder of your own"):
            meeting_folder()


def test_where_paths_are_too_long_for_sockets_servers_meet_elsewhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert meeting_folder().parent == folder


def test_everyones_first_run_comes_before_anyones_second() -> None:
    turns = Turns()
    rounds = {name: turns.take(name[0]) for name in ("a1", "a2", "a3", "b1", "b2")}
    assert sorted(rounds, key=lambda name: rounds[name]) == ["a1", "b1", "a2", "b2", "a3"]
    for name in ("a1", "b1", "a2"):
        turns.begin(rounds[name])
    # Who comes late is in the round that is drawn, not before all those who waited.
    assert turns.take("c") == rounds["b2"]
    assert turns.take("c") == rounds["a3"]
    assert turns.take("a") > rounds["a3"]
