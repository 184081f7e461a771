"""Runs outlive the process: servers that are killed, and servers that end in order."""

import json
import random
import signal
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from http_server import SMALL, serving
from PIL import Image
from support import PATIENCE

from sdxl_lightning_mcp.image import read_parameters

pytestmark = pytest.mark.anyio

RUNS = "/v1/models/mini/runs"
# Some steps long, so that a signal comes in the middle.
STEPS = {"prompt": "the sea", "width": 768, "height": 768, "steps": 12}


async def ask(client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    answer = await client.post(RUNS, json={"input": {**SMALL, **wish}})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def end_of(client: httpx2.AsyncClient, run: dict[str, Any]) -> dict[str, Any]:
    async with client.stream("GET", f"/v1/runs/{run['id']}/events") as stream:
        told = [line[6:] async for line in stream.aiter_lines() if line[:6] == "data: "]
    # The last event is the whole run; asked after it, a server that ends may be gone.
    return json.loads(told[-1])


async def test_what_a_killed_server_had_accepted_is_drawn_by_the_next_from_its_seed(
    tmp_path: Path,
) -> None:
    with anyio.fail_after(PATIENCE):
        with serving(tmp_path) as server:
            async with server.client() as client:
                done = await end_of(client, await ask(client))
                key = {"Idempotency-Key": "once"}
                running = (await client.post(RUNS, json={"input": STEPS}, headers=key)).json()
                waiting = [await ask(client, seed=seed) for seed in (1, 2, 7)]
                async with client.stream("GET", running["links"]["events"]) as stream:
                    async for line in stream.aiter_lines():
                        if line == "event: running":
                            break
                server.kill()
        with serving(tmp_path) as server:
            async with server.client() as client:
                again = await client.post(RUNS, json={"input": STEPS}, headers=key)
                assert again.json()["id"] == running["id"]
                for run in (running, *waiting):
                    ended = await end_of(client, run)
                    assert ended["status_code"] == "succeeded", ended
                    assert ended["input"] == run["input"]
                    assert ended["notes"][-1].startswith("The server ended under this run")
                kept = (await client.get(f"/v1/runs/{done['id']}")).json()
                assert kept["completed_at"] == done["completed_at"]
                listed = (await client.get("/v1/runs")).json()["data"]
    assert len(listed) == 5
    pictures = list((tmp_path / "p").iterdir())
    assert len(pictures) == 5
    assert not [path for path in pictures if path.suffix != ".jpg"]
    # The same seed before and after: the same picture.
    first, second = (
        next(path for path in pictures if run["id"] in path.name) for run in (done, waiting[-1])
    )
    assert read_parameters(second).seed == 7
    with Image.open(first) as one, Image.open(second) as other:
        assert one.tobytes() == other.tobytes()


async def test_a_server_that_is_asked_to_end_finishes_what_it_has_and_takes_nothing_in(
    tmp_path: Path,
) -> None:
    with anyio.fail_after(PATIENCE), serving(tmp_path) as server:
        async with server.client() as client, server.client() as other:
            runs = [await ask(client, seed=seed) for seed in range(2)]
            ends: list[dict[str, Any]] = []

            async def follow(run: dict[str, Any]) -> None:
                ends.append(await end_of(client, run))

            async with anyio.create_task_group() as tasks:
                for run in runs:
                    tasks.start_soon(follow, run)
                # Both streams are open before the signal comes.
                await client.get("/livez")
                server.process.send_signal(signal.SIGTERM)
                await anyio.to_thread.run_sync(
                    server.until, lambda line: line["message"].startswith("closing")
                )
                refused = await other.post(RUNS, json={"input": SMALL})
                ready = await other.get("/readyz")
            assert (refused.status_code, refused.json()["code"]) == (503, "closing")
            assert int(refused.headers["retry-after"]) >= 1
            assert (ready.status_code, ready.json()["code"]) == (503, "closing")
        assert [run["status_code"] for run in ends] == ["succeeded"] * 2
        assert server.process.wait(PATIENCE) == 0
        # Nobody had asked whether it is ready: no balancer was waited for.
        assert not [line for line in server.lines if line["message"].startswith("leaving")]


@pytest.mark.slow
async def test_what_is_not_done_in_time_waits_for_the_next_server(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        with serving(tmp_path, drain_seconds=0) as server:
            async with server.client() as client:
                runs = [await ask(client, **STEPS, seed=seed) for seed in range(2)]
                answers: list[int] = []

                async def wait() -> None:
                    wish = {"input": SMALL}
                    told = await client.post(RUNS, json=wish, headers={"Prefer": "wait=600"})
                    answers.append(told.status_code)
                    runs.append(told.json())

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    while len((await client.get("/v1/runs")).json()["data"]) < 3:
                        await anyio.lowlevel.checkpoint()
                    server.process.send_signal(signal.SIGTERM)
                # It was accepted, and is told as what it is.
                assert answers == [202]
            assert server.process.wait(PATIENCE) == 0
        with serving(tmp_path) as server:
            async with server.client() as client:
                ends = [await end_of(client, run) for run in runs]
    assert [run["status_code"] for run in ends] == ["succeeded"] * 3


async def test_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE), serving(tmp_path) as server:
        async with server.client() as client:
            await ask(client, **STEPS)
            server.process.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(
                server.until, lambda line: line["message"].startswith("closing")
            )
            server.process.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(server.process.wait)
            await anyio.to_thread.run_sync(server.until, lambda line: line["message"] == "ended")
    assert server.process.returncode == 0
    # Its run was not waited for.
    assert not [line for line in server.lines if "succeeded" in line.values()]


async def test_runs_of_another_model_fail_with_the_reason_after_a_restart(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        with serving(tmp_path, drain_seconds=0) as server:
            async with server.client() as client:
                run = await ask(client, **STEPS)
            server.kill()
        # Its weights are not here: it serves all the same, and says so with every run.
        with serving(tmp_path, "--model", "sdxl-base", device="cpu") as server:
            async with server.client() as client:
                ended = (await client.get(f"/v1/runs/{run['id']}")).json()
    assert (ended["status_code"], ended["failure_code"]) == ("failed", "run_failed")
    assert ended["failure_message"] == "The server was started anew with another model, sdxl-base."


@pytest.mark.slow
async def test_a_server_that_is_killed_again_and_again_loses_no_run(tmp_path: Path) -> None:
    moments = random.Random(7)
    taken: dict[str, dict[str, Any]] = {}
    with anyio.fail_after(280):
        for _ in range(6):
            with serving(tmp_path, max_queue=200) as server:
                async with server.client() as client:
                    for number in range(3):
                        run = await ask(client, seed=len(taken) + number, steps=1)
                        taken[run["id"]] = run
                    wanted = moments.random()
                    # In the middle of whatever it does then: loading, drawing, writing.
                    with anyio.move_on_after(8 * wanted):
                        await end_of(client, run)
                    server.kill()
        with serving(tmp_path, max_queue=200) as server:
            async with server.client() as client:
                ends = [await end_of(client, run) for run in taken.values()]
        assert {run["id"] for run in ends} == {*taken}
        for run in ends:
            if run["status_code"] == "succeeded":
                (path,) = (tmp_path / "p").glob(f"*{run['id']}.jpg")
                assert read_parameters(path).model_dump() == run["input"]
                with Image.open(path) as picture:
                    picture.load()
            else:
                assert run["failure_message"].startswith("The server ended 3 times")
        assert sum(run["status_code"] == "succeeded" for run in ends) >= 6
    with sqlite3.connect(tmp_path / "data" / "runs.sqlite3") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
