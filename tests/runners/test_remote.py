"""Runs on other servers of ours, which are real ones and really die."""

import base64
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import numpy as np
import pytest
from http_server import Served, make_key, serving
from mcp import Client
from PIL import Image
from stand_ins import balancing, strange_server
from support import PATIENCE, command, stdio_server, until, until_step

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.errors import (
    RunCanceledError,
    RunFailedError,
    SettingsError,
    UnreachableError,
)
from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.remote import RemoteRunner
from sdxl_lightning_mcp.server import choose_model
from sdxl_lightning_mcp.settings import Settings
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio
# So long that a test can act in the middle of it also on a busy machine.
LONG = {"steps": 12, "width": 1024, "height": 1024}
# Nothing listens there: it is the discard port, which is reserved.
NOBODY = "http://127.0.0.1:9"
JSON, EVENTS = "application/json", "text/event-stream"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for a key, and lets two runs wait."""
    folder = tmp_path_factory.mktemp("served")
    key = make_key(folder)
    with serving(folder, "--model", "mini", device="cpu", max_queue=2) as served:
        served.key = key
        yield served


@asynccontextmanager
async def remote(folder: Path, *urls: str, **options: Any) -> AsyncIterator[RemoteRunner]:
    async with RemoteRunner.open(urls, MINI, Store(folder), **options) as runner:
        yield runner


@pytest.fixture
async def runner(served: Served, tmp_path: Path) -> AsyncIterator[RemoteRunner]:
    async with remote(tmp_path, served.url, token=served.key) as runner:
        yield runner


def long(parameters: Parameters) -> Parameters:
    return parameters.model_copy(update={**LONG})


async def test_a_canceled_run_is_let_go_by_the_server_too(
    runner: RemoteRunner, served: Served, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        stopped = await runner.submit(long(parameters))
        await until_step(stopped, 1)
        await runner.cancel(stopped)
        with pytest.raises(RunCanceledError):
            await stopped.finished()
        while await listed(served, stopped) != "canceled":
            await anyio.lowlevel.checkpoint()
        await (await runner.submit(parameters)).finished()


async def test_runs_that_are_left_behind_end_here_and_there(
    served: Served, tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with remote(tmp_path, served.url, token=served.key) as runner:
            run = await runner.submit(long(parameters))
            await until_step(run, 1)
        with pytest.raises(RunCanceledError, match="closed"):
            await run.finished()
        assert await listed(served, run) == "canceled"


async def test_where_every_server_is_full_runs_wait_in_their_order(
    runner: RemoteRunner, parameters: Parameters
) -> None:
    ends: list[str] = []

    async def end(run: Run) -> None:
        await run.finished()
        ends.append(run.id)

    with anyio.fail_after(PATIENCE):
        first = await runner.submit(parameters.model_copy(update={"width": 1024, "height": 1024}))
        runs = [first, *[await runner.submit(parameters) for _ in range(6)]]
        async with anyio.create_task_group() as tasks:
            for run in runs:
                tasks.start_soon(end, run)
            await until(runs[-1], lambda: runs[-1].message.startswith("every server is full"))
            assert runs[-1].position > 1
    assert ends == [run.id for run in runs]


async def test_a_run_is_moved_from_a_server_that_is_killed_and_back_when_it_recovers(
    tmp_path: Path, parameters: Parameters
) -> None:
    flags = ("--model", "mini", "--device", "cpu")
    with serving(tmp_path / "a", *flags) as one, serving(tmp_path / "b", *flags) as other:
        with anyio.fail_after(PATIENCE):
            async with remote(tmp_path, one.url, other.url) as runner:
                run = await runner.submit(long(parameters))
                waiting = await runner.submit(parameters)
                await until_step(run, 1)
                nearest, spare = await holder_and_other(run, one, other)
                nearest.kill()
                path = await run.finished()
                await waiting.finished()
                assert read_parameters(path) == long(parameters)
                assert run.notes[0].startswith(f"{nearest.url} was lost under this run")
                # One that hangs is left too, here in the middle of a run.
                folder = tmp_path / ("a" if nearest is one else "b")
                port = int(nearest.url.rpartition(":")[2])
                with serving(folder, *flags, port=port):
                    runner.wake()
                    moved = await runner.submit(long(parameters))
                    await until_step(moved, 1)
                    assert await listed(spare, moved) == "running"
                    os.kill(spare.process.pid, signal.SIGSTOP)
                    await moved.finished()
                    assert moved.notes[0].startswith(f"{spare.url} was lost under this run")
                    assert "is silent for" in moved.notes[0]


async def test_a_run_whose_only_server_dies_waits_for_another_and_then_says_what_was_tried(
    tmp_path: Path, parameters: Parameters
) -> None:
    with serving(tmp_path / "a", "--model", "mini", "--device", "cpu") as served:
        with anyio.fail_after(PATIENCE):
            async with remote(tmp_path, served.url, NOBODY, patience_seconds=0.5) as runner:
                run = await runner.submit(long(parameters))
                await until_step(run, 1)
                served.kill()
                with pytest.raises(UnreachableError) as caught:
                    await run.finished()
    assert run.status is Status.FAILED
    assert str(caught.value) == (
        f"No server can draw this. {served.url} cannot be connected to; {NOBODY} cannot be "
        "connected to. Start `sdxl-lightning-mcp serve` there, or leave --connect out to draw on "
        "this machine."
    )


async def test_where_no_server_was_ever_there_a_run_fails_at_once(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE):
        async with remote(tmp_path, NOBODY) as runner:
            with pytest.raises(UnreachableError, match="cannot be connected to"):
                await (await runner.submit(parameters)).finished()


async def test_a_picture_of_many_bytes_comes_whole(tmp_path: Path, parameters: Parameters) -> None:
    noise = np.random.default_rng(7).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=100)
    jpeg = (tmp_path / "noise.jpg").read_bytes()
    assert len(jpeg) > 2**20
    done = {
        "status_code": "succeeded",
        "input": parameters.model_dump(),
        "output": {"outputs": [{"bytes": len(jpeg), "b64_json": base64.b64encode(jpeg).decode()}]},
        "notes": [],
    }
    answer = 200, EVENTS, f"event: done\ndata: {json.dumps(done)}\n\n"
    with strange_server({"runs": answer}) as url, anyio.fail_after(PATIENCE):
        async with remote(tmp_path, url) as runner:
            path = await (await runner.submit(parameters)).finished()
    assert path.read_bytes() == jpeg


async def test_servers_may_stand_behind_a_balancer_and_die_there(
    tmp_path: Path, parameters: Parameters
) -> None:
    flags = ("--model", "mini", "--device", "cpu")
    with serving(tmp_path / "a", *flags) as one, serving(tmp_path / "b", *flags) as other:
        with anyio.fail_after(PATIENCE):
            async with (
                balancing(one.url, other.url) as url,
                remote(tmp_path, url) as runner,
            ):
                for _ in range(3):
                    await (await runner.submit(parameters)).finished()
                run = await runner.submit(long(parameters))
                await until_step(run, 1)
                holder, _ = await holder_and_other(run, one, other)
                holder.kill()
                assert read_parameters(await run.finished()) == long(parameters)
                assert "was lost under this run" in run.notes[0]


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        (None, "asks for a key, in SDXL_LIGHTNING_CONNECT_TOKEN"),
        ("sdxl_wrong", "does not know the key in SDXL_LIGHTNING_CONNECT_TOKEN"),
    ],
)
async def test_a_wrong_key_is_said_before_the_first_run_and_with_it(
    served: Served, tmp_path: Path, parameters: Parameters, token: str | None, answer: str
) -> None:
    with pytest.raises(SettingsError, match=answer):
        choose_model(Settings(connect=(served.url,), connect_token=token))
    with anyio.fail_after(PATIENCE):
        async with remote(tmp_path, served.url, token=token) as runner:
            with pytest.raises(UnreachableError, match=answer):
                await (await runner.submit(parameters)).finished()


async def test_a_server_of_another_model_is_not_used(
    served: Served, tmp_path: Path, parameters: Parameters
) -> None:
    settings = Settings(
        connect=(served.url,),
        connect_token=served.key,
        model="sd-xl-lightning",
    )
    model = choose_model(settings)
    with anyio.fail_after(PATIENCE):
        async with RemoteRunner.open(
            [served.url], model, Store(tmp_path), token=served.key
        ) as runner:
            with pytest.raises(UnreachableError, match=r"serves mini \(mini-1\), not sdxl_light"):
                await (await runner.submit(parameters)).finished()


@pytest.mark.parametrize(
    ("models", "answer"),
    [
        ('{"data": [{"version": "0.0.1", "description": {}}]}', "is version 0.0.1 and this is"),
        ('{"data": [{"id": "gpt-image-1"}]}', "is no server of sdxl-lightning-mcp"),
        ("<p>Sign in, please.</p>", "is no server of sdxl-lightning-mcp"),
    ],
)
async def test_a_server_of_another_version_or_of_others_is_not_used(
    models: str, answer: str, tmp_path: Path, parameters: Parameters
) -> None:
    with strange_server({"models": (200, JSON, models)}) as url:
        with pytest.raises(SettingsError, match=answer):
            choose_model(Settings(connect=(url,)))
        with anyio.fail_after(PATIENCE):
            async with remote(tmp_path, url) as runner:
                with pytest.raises(UnreachableError, match=answer):
                    await (await runner.submit(parameters)).finished()


async def test_a_stdio_server_gives_its_runs_to_the_server_it_is_connected_to(
    served: Served, tmp_path: Path
) -> None:
    parameters = stdio_server(
        *("--connect", served.url, "--output-dir", str(tmp_path), "--model", "auto"),
        SDXL_LIGHTNING_CONNECT_TOKEN=str(served.key),
        SDXL_LIGHTNING_DATA_DIR=str(tmp_path / "data"),
    )
    with anyio.fail_after(PATIENCE):
        async with Client(parameters) as client:
            result = await client.call_tool("generate_image", {"prompt": "the sea", "seed": 3})
            (made,) = tmp_path.glob("*.jpg")
            assert str(made) in result.content[1].text
            spec = await client.read_resource("sdxl-lightning://models/mini")
    assert json.loads(spec.contents[0].text)["model"] == "mini"
    with httpx2.Client(base_url=served.url, headers=bearer(served)) as http:
        (last,) = http.get("/v1/runs", params={"limit": 1}).json()["data"]
    assert last["client_ref"] in made.name


def test_what_the_servers_decide_cannot_be_set_here() -> None:
    for flag, value in (("--speed", "fast"), ("--lora", "x.safetensors"), ("--device", "cpu")):
        ended = command("--connect", NOBODY, flag, value, input="")
        assert ended.returncode == 2
        assert "with --connect the servers there decide that" in ended.stderr
    ended = command("--connect", "gpu-box", input="")
    assert "allowed: addresses as http://gpu-box:8000" in ended.stderr
    ended = command("--connect", NOBODY, "--model", "auto", input="")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"no server can be used. {NOBODY} cannot be connected to" in ended.stderr


def bearer(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.key}"} if served.key else {}


async def holder_and_other(run: Run, one: Served, other: Served) -> tuple[Served, Served]:
    """The server that has a run, and the one that has not."""
    found = (one, other) if await listed(one, run) else (other, one)
    assert await listed(found[0], run) == "running"
    return found


async def listed(served: Served, run: Run) -> str | None:
    """How a run stands at the server; None where it has not come."""
    async with served.client(headers=bearer(served)) as client:
        runs = (await client.get("/v1/runs")).json()["data"]
        return next((one["status_code"] for one in runs if one["client_ref"] == run.id), None)


DONE = json.dumps(
    {
        "status_code": "succeeded",
        "input": {},
        "output": {"outputs": [{"bytes": 3, "b64_json": "AAAA"}]},
        "notes": [],
    }
)


@pytest.mark.parametrize(
    "answer",
    [
        (500, JSON, '{"detail": "Something went wrong here."}'),
        (404, "text/html", "<p>Not here.</p>"),
        (200, "text/html", "<p>Sign in, please.</p>"),
        (202, JSON, '{"id": "one", "status_code": "queued"}'),
        (200, EVENTS, ""),
        (200, EVENTS, "event: done\ndata: <p>\n\n"),
        (200, EVENTS, "event: done\ndata: []\n\n"),
        (200, EVENTS, "event: dreaming\ndata: {}\n\n"),
        (200, EVENTS, f"event: done\ndata: {DONE}\n\n"),
        (200, EVENTS, f"event: done\ndata: {DONE.replace('AAAA', 'AA')}\n\n"),
        (200, EVENTS, f"event: done\ndata: {DONE.replace('b64_json', 'url')}\n\n"),
    ],
)
async def test_a_server_that_answers_strangely_fails_the_run_in_words_and_nothing_else(
    answer: tuple[int, str, str], tmp_path: Path, parameters: Parameters
) -> None:
    with strange_server({"runs": answer}) as url:
        with anyio.fail_after(PATIENCE):
            async with remote(tmp_path, url, patience_seconds=0) as runner:
                for _ in range(2):
                    run = await runner.submit(parameters)
                    with pytest.raises(RunFailedError, match=re.escape(url)):
                        await run.finished()
                    assert run.attempts <= 5
