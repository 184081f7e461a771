"""Measures what HTTP adds: REST beside the engine, a full queue with many watchers, and /livez.

make bench      (or: python benchmarks/over_http.py [--json FILE] [--quick])
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil

import sdxl_lightning_mcp as sdxl

PROMPT = "a cyberpunk city street at night, neon signs glowing"
RUNS = "/v1/models/mini/runs"
PAUSE = 0.01


def main() -> None:
    """Runs every measurement and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="few, only to see that it works")
    options = parser.parse_args()
    few = options.quick
    figures: dict[str, Any] = {}
    figures |= anyio.run(overhead, 5 if few else 60)
    figures |= anyio.run(crowd, 20 if few else 200, 60 if few else 1000)
    figures |= anyio.run(liveness, 3 if few else 30)
    for name, value in figures.items():
        print(f"{name:60} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


@asynccontextmanager
async def serving(**settings: object) -> AsyncGenerator[tuple[httpx2.AsyncClient, psutil.Process]]:
    """A server of mini with a record and pictures of its own, and a client of it."""
    said = {f"SDXL_LIGHTNING_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as folder:
        places = ("--data-dir", f"{folder}/data", "--output-dir", f"{folder}/pictures")
        command = [sys.executable, "-m", "sdxl_lightning_mcp", "serve", "--model", "mini"]
        async with await anyio.open_process(
            [*command, *places, "--port", "0"],
            env={**os.environ, **said},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            text = b""
            while not (found := re.search(rb'"url": "([^"]+)"', text)):
                text += await process.stderr.receive()
            url = found[1].decode()
            limits = httpx2.Limits(max_connections=400)
            client = httpx2.AsyncClient(base_url=url, timeout=3600, limits=limits)
            async with client, anyio.create_task_group() as tasks:
                tasks.start_soon(drain, process.stderr)
                yield client, psutil.Process(process.pid)
                tasks.cancel_scope.cancel()
            process.kill()


async def drain(stream: Any) -> None:
    """Reads what is logged, so that the server need not wait."""
    async for _ in stream:
        pass


async def ready(client: httpx2.AsyncClient) -> None:
    """Waits until a device is."""
    while (await client.get("/readyz")).status_code != 200:
        await anyio.sleep(0.1)


async def overhead(count: int) -> dict[str, Any]:
    """The same pictures through REST and by the engine in this process, in turn."""
    engine = sdxl.load("mini")
    times: dict[str, list[float]] = {"REST": [], "engine call": []}
    async with serving() as (client, _):
        await ready(client)
        for seed in range(-3, count):
            body = {"input": {"prompt": f"{PROMPT}, number {seed}", "seed": abs(seed)}}
            begun = time.perf_counter()
            answer = await client.post(RUNS, json=body, headers={"Prefer": "wait=60"})
            between = time.perf_counter()
            assert answer.status_code == 201, answer.text
            engine(body["input"]["prompt"], seed=abs(seed))
            ended = time.perf_counter()
            if seed >= 0:  # the first ones warm up
                times["REST"].append(between - begun)
                times["engine call"].append(ended - between)
    rest, call = (statistics.median(each) for each in times.values())
    return {
        "REST, p50": f"{rest:.3f} s",
        "engine call in turn with it, p50": f"{call:.3f} s",
        "REST adds, p50": f"{(rest - call) * 1000:.1f} ms",
    }


async def crowd(streams: int, runs: int) -> dict[str, Any]:
    """So many event streams on a queue of so many runs: memory of the server, and who is lost."""
    wish = {"prompt": PROMPT, "width": 256, "height": 256, "steps": 1}
    ends: list[str] = []
    async with serving(max_queue=runs + 10, idle_minutes=0) as (client, server):
        await ready(client)
        await client.post(RUNS, json={"input": wish}, headers={"Prefer": "wait=60"})
        before = server.memory_info().rss
        ids: list[str] = []
        for first in range(0, runs, 100):
            inputs = [{**wish, "seed": seed} for seed in range(first, min(first + 100, runs))]
            answer = await client.post("/v1/models/mini/batches", json={"inputs": inputs})
            assert answer.status_code == 202, answer.text
            ids += [run["id"] for run in answer.json()["runs"]]

        async def follow(run_id: str) -> None:
            async with client.stream("GET", f"/v1/runs/{run_id}/events") as stream:
                told = [line async for line in stream.aiter_lines() if line[:6] == "event:"]
            if told[-1] == "event: done":
                ends.append(run_id)

        peak = before
        async with anyio.create_task_group() as tasks:
            for run_id in ids[-streams:]:
                tasks.start_soon(follow, run_id)
            while len(ends) < streams:
                peak = max(peak, server.memory_info().rss)
                await anyio.sleep(0.2)
        listed: list[dict[str, Any]] = []
        cursor = ""
        while len(listed) < runs:
            page = (await client.get(f"/v1/runs?limit=500{cursor}")).json()
            listed += page["data"]
            cursor = f"&cursor={page['next']}"
        states = {run["id"]: run["status_code"] for run in listed}
    done = sum(states.get(run_id) == "succeeded" for run_id in ids)
    what = f"{streams} event streams and {runs:,} queued runs"
    return {
        f"{what}: memory": f"{(peak - before) / 1e6:.0f} MB",
        f"{what}: finished": f"{done:,} of {runs:,}",
    }


async def liveness(seconds: float) -> dict[str, Any]:
    """/livez every ten milliseconds, while the model loads and while the device is busy."""
    figures: dict[str, Any] = {}
    async with serving() as (client, _):
        loading = await asked(client, lambda: client.get("/readyz"), None)
        figures["/livez while the model loads, p99"] = f"{p99(loading):.1f} ms"

        async def draw() -> httpx2.Response:
            body = {"input": {"prompt": PROMPT}}
            return await client.post(RUNS, json=body, headers={"Prefer": "wait=60"})

        busy = await asked(client, draw, seconds)
        figures["/livez while the device is busy, p99"] = f"{p99(busy):.1f} ms"
    return figures


async def asked(client: httpx2.AsyncClient, meanwhile: Any, seconds: float | None) -> list[float]:
    """Times of /livez while something else is asked again and again: so long, or until it is OK."""
    times: list[float] = []
    until = time.monotonic() + (seconds or 3600)
    async with anyio.create_task_group() as tasks:

        async def keep_asking() -> None:
            while time.monotonic() < until:
                answer = await meanwhile()
                if seconds is None:
                    if answer.status_code == 200:
                        break
                    await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()

        tasks.start_soon(keep_asking)
        while True:
            begun = time.perf_counter()
            await client.get("/livez")
            times.append((time.perf_counter() - begun) * 1000)
            await anyio.sleep(PAUSE)
    return times


def p99(times: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[-1]


if __name__ == "__main__":
    main()
