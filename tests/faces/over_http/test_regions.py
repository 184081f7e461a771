"""Two servers of two regions: ids, headers, seeds, and a drain that a balancer can follow."""

import io
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from http_server import SMALL, Served, serving
from mcp import Client
from PIL import Image
from support import PATIENCE

pytestmark = pytest.mark.anyio

RUNS = "/v1/models/mini/runs"
WAIT = {"Prefer": "wait=120"}
WISH = {name: value for name, value in SMALL.items() if name != "seed"} | {"steps": 1}
Regions = tuple[Served, Served]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    with ExitStack() as stack:

        def start(region: str) -> Served:
            folder = tmp_path_factory.mktemp(region)
            return stack.enter_context(serving(folder, "--model", "mini", "--region", region))

        yield start("eu"), start("us-west-1")


async def make(client: httpx2.AsyncClient, key: str = "", **wish: Any) -> dict[str, Any]:
    """A run that has ended."""
    headers = {**WAIT, "Idempotency-Key": key} if key else WAIT
    answer = await client.post(RUNS, json={"input": {**WISH, **wish}}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def pixels(client: httpx2.AsyncClient, run: dict[str, Any]) -> bytes:
    answer = await client.get(run["links"]["image"])
    assert run["id"] in answer.headers["content-disposition"]
    with Image.open(io.BytesIO(answer.content)) as picture:
        return picture.tobytes()


async def test_every_answer_and_every_run_says_its_region_and_elsewhere_it_is_said_where(
    regions: Regions,
) -> None:
    eu, us = regions
    with anyio.fail_after(PATIENCE):
        async with eu.client() as here, us.client() as there, Client(f"{us.url}/mcp") as agent:
            for client, region in ((here, "eu"), (there, "us-west-1")):
                for path in ("/livez", "/v1/runs", "/nothing"):
                    assert (await client.get(path)).headers["x-region"] == region
            run = await make(here)
            batch = (await here.post(RUNS[:-4] + "batches", json={"inputs": [WISH]})).json()
            assert run["id"].endswith("-eu")
            assert batch["id"].endswith("-eu")
            link = run["output"]["outputs"][0]["url"].removeprefix(eu.url)
            asked = (
                ("GET", f"/v1/runs/{run['id']}"),
                ("GET", f"/v1/runs/{run['id']}/events"),
                ("GET", link),
                ("POST", f"/v1/runs/{run['id']}/cancel"),
                ("DELETE", f"/v1/runs/{run['id']}"),
                ("GET", f"/v1/runs?batch={batch['id']}"),
                ("GET", f"/v1/runs?cursor={run['id']}"),
            )
            for method, path in asked:
                refused = await there.request(method, path)
                problem = refused.json()
                assert (refused.status_code, problem["code"]) == (404, "run_elsewhere"), path
                assert (
                    "lives in region 'eu', and this server is of region 'us-west-1'"
                    in (problem["detail"])
                )
            unknown = await there.get(f"/v1/runs/{run['id'].replace('-eu', '-us-west-1')}")
            assert unknown.json()["code"] == "run_not_found"
            drawn = await agent.call_tool("generate_image", WISH)
            assert drawn.meta["sdxl-lightning-mcp/run"]["id"].endswith("-us-west-1")
            again = await agent.call_tool(
                "get_image", {"id": drawn.meta["sdxl-lightning-mcp/run"]["id"]}
            )
            assert not again.is_error
            elsewhere = await agent.call_tool("get_image", {"id": run["id"]})
            assert elsewhere.is_error
            assert "lives in region 'eu'" in elsewhere.content[0].text


async def test_a_key_draws_the_same_picture_in_every_region_where_no_seed_was_given(
    regions: Regions,
) -> None:
    with anyio.fail_after(PATIENCE):
        async with regions[0].client() as here, regions[1].client() as there:
            runs = [await make(client, key="order-17") for client in (here, there)]
            assert runs[0]["id"] != runs[1]["id"]
            assert runs[0]["input"] == runs[1]["input"]
            pictures = [
                await pixels(client, run) for client, run in zip((here, there), runs, strict=True)
            ]
            assert pictures[0] == pictures[1]
            others = [
                await make(here, key="order-18"),
                await make(here),
                await make(here, key="order-19", seed=7),
            ]
            seeds = [run["input"]["seed"] for run in (runs[0], *others)]
            assert len({*seeds}) == 4
            assert seeds[-1] == 7
            batches = [
                await client.post(
                    RUNS[:-4] + "batches",
                    json={"inputs": [WISH, {**WISH, "seed": None}, {**WISH, "seed": 5}]},
                    headers={"Idempotency-Key": "order-20"},
                )
                for client in (here, there)
            ]
            told = [[run["input"]["seed"] for run in each.json()["runs"]] for each in batches]
            assert told[0] == told[1]
            assert len({*told[0]}) == 3
            assert told[0][-1] == 5
            body = {"prompt": "the sea", "size": "256x256", "steps": 1, "n": 2}
            images = [
                await client.post(
                    "/v1/images/generations", json=body, headers={"Idempotency-Key": "order-21"}
                )
                for client in (here, there)
            ]
            told = [[image["seed"] for image in each.json()["data"]] for each in images]
            assert told[0] == told[1]
            assert told[0][1] == (told[0][0] + 1) % 2**32


async def test_runs_stay_in_the_order_of_time_when_a_server_gets_a_region(tmp_path: Path) -> None:
    made: list[str] = []
    with anyio.fail_after(PATIENCE):
        for region in ("", "eu"):
            with serving(tmp_path, region=region) as server:
                async with server.client() as client:
                    made += [(await make(client))["id"] for _ in range(2)]
                    for old in made:
                        assert (await client.get(f"/v1/runs/{old}")).json()["id"] == old
                    listed: list[str] = []
                    page: dict[str, Any] = {"next": ""}
                    while page["next"] is not None:
                        cursor = page["next"] and f"&cursor={page['next']}"
                        page = (await client.get(f"/v1/runs?limit=2{cursor}")).json()
                        listed += [run["id"] for run in page["data"]]
                    assert listed == made[::-1]
    assert [run_id[36:] for run_id in made] == ["", "", "-eu", "-eu"]


async def test_where_a_balancer_watches_it_is_told_first_and_everyone_is_served_meanwhile(
    tmp_path: Path,
) -> None:
    def said(server: Served, word: str) -> datetime:
        line = server.until(lambda line: line["message"].startswith(word))
        return datetime.fromisoformat(line["time"])

    with anyio.fail_after(PATIENCE), serving(tmp_path, drain_lag_seconds=4) as server:
        async with server.client() as client:
            await client.get("/readyz")
            server.process.send_signal(signal.SIGTERM)
            leaving = await anyio.to_thread.run_sync(said, server, "leaving")
            ready = await client.get("/readyz")
            taken = await client.post(RUNS, json={"input": WISH})
            assert (ready.status_code, ready.json()["code"]) == (503, "closing")
            assert taken.status_code == 202
            # Then it is as it is without a balancer: finished, but nothing new.
            closing = await anyio.to_thread.run_sync(said, server, "closing")
        assert (closing - leaving).total_seconds() >= 4
        assert server.process.wait(PATIENCE) == 0
        run = server.until(lambda line: line.get("run") == taken.json()["id"])
    assert run["status"] == "succeeded"


async def test_the_second_signal_ends_also_what_waits_for_a_balancer(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE), serving(tmp_path, drain_lag_seconds=20) as server:
        async with server.client() as client:
            await client.get("/readyz")
        server.process.send_signal(signal.SIGINT)
        await anyio.to_thread.run_sync(
            server.until, lambda line: line["message"].startswith("leaving")
        )
        asked = time.monotonic()
        assert await anyio.to_thread.run_sync(server.end, signal.SIGINT) == 0
        assert time.monotonic() - asked < 10
