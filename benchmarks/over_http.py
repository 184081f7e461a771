"""Measures what HTTP adds: REST beside the engine, a full queue with many watchers, and /livez.

make bench      (or: python benchmarks/over_http.py [--json FILE] [--quick])
"""

import statistics
import time
from typing import Any

import anyio
import httpx2
from served import PROMPT, RUNS, serving, tell

import sdxl_lightning_mcp as sdxl
from sdxl_lightning_mcp.engine.memory import keep_memory

PAUSE = 0.01


def measure(few: bool) -> dict[str, Any]:
    """Every figure by its name."""
    figures: dict[str, Any] = {}
    figures |= anyio.run(overhead, 5 if few else 60)
    figures |= anyio.run(crowd, 20 if few else 200, 60 if few else 1000)
    figures |= anyio.run(liveness, 3 if few else 30)
    return figures


async def overhead(count: int) -> dict[str, Any]:
    """The same pictures through REST and by the engine in this process, in turn."""
    engine = sdxl.load("mini")
    # As the server's worker does: what is compared has equal memory.
    keep_memory(engine.engine.sdxl.tuning.device)
    times: dict[str, list[float]] = {"REST": [], "engine call": []}
    async with serving() as server:
        await server.ready()
        for seed in range(-3, count):
            body = {"input": {"prompt": f"{PROMPT}, number {seed}", "seed": abs(seed)}}
            begun = time.perf_counter()
            answer = await server.client.post(RUNS, json=body, headers={"Prefer": "wait=60"})
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
    async with serving(max_queue=runs + 10, idle_minutes=0) as server:
        await server.ready()
        client = server.client
        await client.post(RUNS, json={"input": wish}, headers={"Prefer": "wait=60"})
        before = server.process.memory_info().rss
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
                peak = max(peak, server.process.memory_info().rss)
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
    async with serving() as server:
        client = server.client
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
    tell(__doc__, measure)
