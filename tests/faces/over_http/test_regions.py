"""Two servers of two regions: ids, headers, seeds, and a drain that a balancer can follow."""

import io
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import anyio
import httpx2
import pytest
from http_server import SMALL, Served, serving
from mcp import Client
from PIL import Image
from support import PATIENCE, ROOT

pytestmark = pytest.mark.anyio

RUNS = "/v1/models/mini/runs"
WAIT = {"Prefer": "wait=120"}
WISH = {name: value for name, value in SMALL.items() if name != "seed"} | {"steps": 1}
Regions = tuple[Served, Served]
EXAMPLE = ROOT / "examples" / "regions"
HAPROXY = shutil.which("haproxy", path=os.environ["PATH"] + ":/usr/sbin")
NEEDS_HAPROXY = pytest.mark.skipif(HAPROXY is None, reason="needs: apt-get install haproxy")


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    with ExitStack() as stack:

        def start(region: str) -> Served:
            folder = tmp_path_factory.mktemp(region)
            return stack.enter_context(serving(folder, "--model", "mini", "--region", region))

        yield start("eu"), start("us")


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
            for client, region in ((here, "eu"), (there, "us")):
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
                    "lives in region 'eu', and this server is of region 'us'" in (problem["detail"])
                )
            unknown = await there.get(f"/v1/runs/{run['id'].replace('-eu', '-us')}")
            assert unknown.json()["code"] == "run_not_found"
            drawn = await agent.call_tool("generate_image", WISH)
            assert drawn.meta["sdxl-lightning-mcp/run"]["id"].endswith("-us")
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
        for region in ("", "us-west-1"):
            with serving(tmp_path, region=region) as server:
                async with server.client() as client:
                    for _ in range(2):
                        taken = await client.post(RUNS, json={"input": WISH})
                        made.append(taken.json()["id"])
                    for old in made:
                        assert (await client.get(f"/v1/runs/{old}")).json()["id"] == old
                    listed: list[str] = []
                    page: dict[str, Any] = {"next": ""}
                    while page["next"] is not None:
                        cursor = page["next"] and f"&cursor={page['next']}"
                        page = (await client.get(f"/v1/runs?limit=2{cursor}")).json()
                        listed += [run["id"] for run in page["data"]]
                    assert listed == made[::-1]
    assert [run_id[36:] for run_id in made] == ["", "", "-us-west-1", "-us-west-1"]


async def test_where_a_balancer_watches_it_is_told_first_and_everyone_is_served_meanwhile(
    tmp_path: Path,
) -> None:
    def said(server: Served, word: str) -> datetime:
        line = server.until(lambda line: line["message"].startswith(word))
        return datetime.fromisoformat(line["time"])

    with (
        anyio.fail_after(PATIENCE),
        serving(tmp_path, drain_lag_seconds=4, drain_seconds=PATIENCE) as server,
    ):
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


@contextmanager
def balancer(eu: str, us: str) -> Iterator[httpx2.AsyncClient]:
    """The example's balancer before two addresses, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = Popen(
        [str(HAPROXY), "-q", "-f", EXAMPLE / "haproxy.cfg"],
        env={"BALANCER": address, "EU": eu, "US": us},
        stderr=DEVNULL,
    )
    try:
        yield httpx2.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE)
    finally:
        process.terminate()
        process.wait()


async def answered(client: httpx2.AsyncClient, path: str, status: int) -> httpx2.Response:
    """The first answer with that status; the balancer may not listen yet, or not know yet."""
    while True:
        with suppress(httpx2.TransportError):
            if (answer := await client.get(path)).status_code == status:
                return answer


@NEEDS_HAPROXY
async def test_through_the_balancer_a_caller_knows_of_no_regions(regions: Regions) -> None:
    with balancer(*(server.url.removeprefix("http://") for server in regions)) as client:
        with anyio.fail_after(PATIENCE):
            async with client:
                for region in ("eu", "us"):
                    while (await answered(client, "/v1/runs", 200)).headers["x-region"] != region:
                        pass
                runs = [await make(client, key=f"there-{number}") for number in range(4)]
                assert {run["id"][36:] for run in runs} == {"-eu", "-us"}
                async with Client(f"{client.base_url}/mcp") as agent:
                    for number, run in enumerate(runs):
                        await look(client, agent, run, f"there-{number}")


async def look(client: httpx2.AsyncClient, agent: Client, run: dict[str, Any], key: str) -> None:
    """At a run in all ways that there are."""
    assert run["links"]["self"] == f"{client.base_url}/v1/runs/{run['id']}"
    assert (await client.get(run["links"]["self"])).json()["id"] == run["id"]
    assert (await client.get(run["output"]["outputs"][0]["url"])).is_success
    assert (await make(client, key=key))["id"] == run["id"]
    page = await client.get(f"/v1/runs?limit=1&cursor={run['id']}")
    assert page.headers["x-region"] == run["id"][37:]
    assert not (await agent.call_tool("get_image", {"id": run["id"]})).is_error
    await agent.read_resource(f"sdxl-lightning://runs/{run['id']}/image")


@NEEDS_HAPROXY
async def test_the_balancer_says_in_the_servers_form_that_no_region_is_there() -> None:
    with balancer("127.0.0.1:9", "127.0.0.1:9") as client, anyio.fail_after(PATIENCE):
        async with client:
            refused = await answered(client, '/v1/runs/"?limit=1', 503)
    problem = refused.json()
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    assert (problem["status"], problem["code"]) == (503, "no_region")
    assert problem["request_id"] == refused.headers["x-request-id"]
    assert problem["error"]["code"] == "no_region"


@NEEDS_HAPROXY
@pytest.mark.slow
async def test_a_region_that_is_killed_hangs_or_drains_loses_no_run_and_doubles_none(
    tmp_path: Path,
) -> None:
    with anyio.fail_after(280):
        script = [sys.executable, EXAMPLE / "failover.py", "--runs", "40"]
        await anyio.run_process([*script, "--json", tmp_path / "figures.json"])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [*figures] == ["undisturbed", "kill -9", "hung", "drained"]
    for told in figures.values():
        assert int(told["runs with keys"]) >= 40
        assert (told["lost"], told["doubled"]) == ("0", "0")
