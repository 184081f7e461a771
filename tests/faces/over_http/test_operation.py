"""Operation: alive, ready, measured, logged; full queues and slow clients."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from http_server import LONG, SMALL, Served, serving
from prometheus_client.parser import text_string_to_metric_families
from support import PATIENCE

from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.faces.http.serving import listen

pytestmark = pytest.mark.anyio

RUNS = "/v1/models/mini/runs"


async def figures(client: httpx2.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_it_is_ready_when_a_device_is_and_not_where_the_disk_is_full(
    tmp_path: Path, client: httpx2.AsyncClient
) -> None:
    with anyio.fail_after(PATIENCE):
        assert (await client.get("/livez")).text == "ok\n"
        while (answer := await client.get("/readyz")).status_code != 200:
            assert answer.json()["code"] == "loading"
            assert answer.headers["retry-after"] == "5"
        told = await figures(client)
        assert [told[name] for name in told if name.startswith("sdxl_device_ready")] == [1]
        # No disk has so much free.
        with serving(tmp_path, disk_gigabytes=1e12) as server:
            async with server.client() as other:
                codes = set()
                while "disk_full" not in codes:
                    codes.add((await other.get("/readyz")).json()["code"])
                assert (await other.get("/livez")).status_code == 200


async def test_what_is_sent_does_not_wait_for_an_acknowledgement() -> None:
    accepted: list[int] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with anyio.fail_after(PATIENCE):
        listening = listen(load_settings({}, port=0))
        async with await asyncio.start_server(accept, sock=listening):
            async with await anyio.connect_tcp(*listening.getsockname()) as stream:
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
    assert accepted[0] != 0


async def test_runs_are_counted_and_each_is_one_line_of_log_without_its_prompt(
    client: httpx2.AsyncClient, served: Served
) -> None:
    before = await figures(client)
    with anyio.fail_after(PATIENCE):
        headers = {"Prefer": "wait=120", "X-Request-Id": "from-outside"}
        answer = await client.post(RUNS, json={"input": SMALL}, headers=headers)
        run = answer.json()
        line = await anyio.to_thread.run_sync(
            served.until, lambda line: line.get("run") == run["id"]
        )
    after = await figures(client)
    name = 'sdxl_runs_total{"face": "rest", "status": "succeeded"}'
    assert after[name] == before.get(name, 0) + 1
    assert after["sdxl_pixels_total{}"] == before["sdxl_pixels_total{}"] + 512 * 512
    assert after["sdxl_run_seconds_count{}"] == before["sdxl_run_seconds_count{}"] + 1
    assert after["sdxl_runs_waiting{}"] == 0
    assert (line["status"], line["face"], line["request_id"]) == (
        "succeeded",
        "rest",
        "from-outside",
    )
    assert line["duration_ms"] == run["duration_ms"]
    assert not [line for line in served.lines if SMALL["prompt"] in json.dumps(line)]


async def test_with_the_queue_full_everyone_is_answered_and_nobody_is_lost(
    tmp_path: Path,
) -> None:
    answers: list[httpx2.Response] = []
    with anyio.fail_after(PATIENCE), serving(tmp_path, max_queue=4) as server:
        limits = httpx2.Limits(max_connections=64)
        async with server.client(limits=limits) as client:

            async def ask(number: int) -> None:
                body = {"input": {**SMALL, "seed": number}}
                answers.append(await client.post(RUNS, json=body))

            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(ask, number)
            assert {answer.status_code for answer in answers} == {202, 429}
            refused = [answer for answer in answers if answer.status_code == 429]
            assert {answer.json()["code"] for answer in refused} == {"queue_full"}
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            taken = {answer.json()["id"] for answer in answers if answer.status_code == 202}
            while True:
                listed = (await client.get("/v1/runs?limit=500")).json()["data"]
                if all(run["completed_at"] for run in listed):
                    break
            assert {run["id"] for run in listed} == taken
            assert {run["status_code"] for run in listed} == {"succeeded"}
            assert (await figures(client))['sdxl_requests_refused_total{"code": "queue_full"}'] == (
                len(refused)
            )


@pytest.mark.slow
async def test_clients_that_dawdle_are_not_waited_for_and_are_in_nobodys_way(
    served: Served, client: httpx2.AsyncClient
) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    heads = (
        b"GET /livez HTTP/1.1\r\nHost: local",
        b"POST /v1/models/mini/runs HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
        b"",
    )
    ends: list[bytes] = []

    async def dawdle(head: bytes) -> None:
        async with await anyio.connect_tcp(host, int(port)) as stream:
            if head:
                await stream.send(head)
            got = b""
            try:
                while True:
                    got += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                ends.append(got)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for head in heads:
                tasks.start_soon(dawdle, head)
            assert (await client.get("/livez")).status_code == 200
    assert sorted(got.split(b"\r\n")[0] for got in ends) == [
        b"",
        b"",
        b"HTTP/1.1 408 Request Timeout",
    ]


@pytest.mark.slow
async def test_old_runs_make_room_with_their_pictures(tmp_path: Path) -> None:
    ids: list[str] = []

    async def make(client: Any) -> None:
        body = {"input": SMALL}
        answer = await client.post(RUNS, json=body, headers={"Prefer": "wait=120"})
        ids.append(answer.json()["id"])

    with anyio.fail_after(PATIENCE):
        with serving(tmp_path, keep_runs=2) as server:
            async with server.client() as client:
                for _ in range(3):
                    await make(client)
        # It looks at its start, and then every minute.
        with serving(tmp_path, keep_runs=2) as server:
            async with server.client() as client:
                while len((await client.get("/v1/runs")).json()["data"]) > 2:
                    await anyio.lowlevel.checkpoint()
                assert (await client.get(f"/v1/runs/{ids[0]}")).status_code == 404
    left = {path.name.split("_")[-1].removesuffix(".jpg") for path in (tmp_path / "p").iterdir()}
    assert left == {*ids[1:]}


async def test_a_running_run_is_stopped_with_metrics_and_log_too(
    client: httpx2.AsyncClient, served: Served
) -> None:
    run = (await client.post(RUNS, json={"input": LONG})).json()
    await client.post(run["links"]["cancel"])
    line = await anyio.to_thread.run_sync(served.until, lambda line: line.get("run") == run["id"])
    assert (line["status"], line["error"]) == ("canceled", "run_canceled")
