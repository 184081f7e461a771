"""Two regions and a balancer under load: one is killed, one hangs, one drains; who notices?

make failover      (or: python examples/regions/failover.py [--runs N] [--json FILE])
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
from load import Load
from mcp import Client
from PIL import Image
from servers import Region, standing

CALLERS, AGENTS = 4, 2
# Longer than the balancer takes to see it.
HANG_SECONDS = 12.0


def main() -> None:
    """Runs every scenario and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300, help="with keys, in each scenario")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    haproxy = shutil.which("haproxy", path=path)
    if haproxy is None:
        sys.exit("HAProxy is not here: apt-get install haproxy (Debian), brew install haproxy")
    figures = anyio.run(measure, haproxy, options.runs)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    wrong = [name for name, told in figures.items() if int(told["lost"]) or int(told["doubled"])]
    if wrong:
        sys.exit(f"Not as promised: {', '.join(wrong)}")


Event = Callable[[Region], Awaitable[None]]


async def nothing(_: Region) -> None:
    """What everything else is held against."""


async def kill(region: Region) -> None:
    """Ends a region as a crash does."""
    region.send(signal.SIGKILL)
    await region.gone()


async def hold(region: Region) -> None:
    """Holds a region still; its connections stay open."""
    region.send(signal.SIGSTOP)
    await anyio.sleep(HANG_SECONDS)


async def drain(region: Region) -> None:
    """Ends a region in order, as before a new version."""
    region.send(signal.SIGTERM)
    if code := await region.gone():
        sys.exit(f"It left with {code}.")


async def start(region: Region) -> None:
    """Starts a region on the record that it had."""
    region.start()


async def let_go(region: Region) -> None:
    """Lets a region go on that was held."""
    region.send(signal.SIGCONT)


# How a region goes, and how it comes back.
SCENARIOS: dict[str, tuple[Event, Event]] = {
    "undisturbed": (nothing, nothing),
    "kill -9": (kill, start),
    "hung": (hold, let_go),
    "drained": (drain, start),
}


# --- the figures ---------------------------------------------------------------------------


async def measure(haproxy: str, runs: int) -> dict[str, dict[str, str]]:
    """Every scenario in turn, with its figures by name."""
    figures: dict[str, dict[str, str]] = {}
    with standing(haproxy) as (url, regions):
        await both_answer(url, regions)
        for name, (goes, returns) in SCENARIOS.items():
            load = Load(name, url)
            await ask(load, runs, goes, regions[0])
            back = await come_back(load, returns, regions[0])
            figures[name] = await summed_up(load, back, url, regions)
            told = ", ".join(f"{what} {figure}" for what, figure in figures[name].items() if figure)
            print(f"{name}: {told}", flush=True)
            for failure in load.failed[:3]:
                print(f"    failed: {failure}")
    return figures


async def both_answer(url: str, regions: list[Region]) -> None:
    """Waits until the balancer sends requests to both."""
    heard: set[str] = set()
    with anyio.fail_after(180):
        async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
            while len(heard) < len(regions):
                for region in regions:
                    region.check()
                with suppress(httpx2.TransportError):
                    answer = await client.get("/v1/runs?limit=1")
                    heard |= {*answer.headers.get_list("x-region")}
                await anyio.sleep(0.1)


async def ask(load: Load, runs: int, goes: Event, region: Region) -> None:
    """The load, until so many runs are done; after a quarter of them the region goes."""
    limits = httpx2.Limits(max_connections=CALLERS)
    client = httpx2.AsyncClient(base_url=load.url, timeout=180, limits=limits)
    async with client, anyio.create_task_group() as tasks:
        for _ in range(CALLERS):
            tasks.start_soon(load.caller, client)
        for _ in range(AGENTS):
            tasks.start_soon(call_tools, load)
        await until(lambda: len(load.told) >= runs / 4)
        await goes(region)
        await until(lambda: len(load.told) >= runs)
        load.stopped = True


async def come_back(load: Load, returns: Event, region: Region) -> float:
    """Less of the load, until the region answers again: after how many seconds it does.

    Times are not taken here: a region that starts on a machine of its own is in nobody's way.
    """
    load.stopped = load.timed = False
    client = httpx2.AsyncClient(base_url=load.url, timeout=180)
    async with client, anyio.create_task_group() as tasks:
        tasks.start_soon(load.caller, client)
        tasks.start_soon(load.caller, client)
        await returns(region)
        begun = time.monotonic()

        def answered() -> bool:
            region.check()
            return load.heard.get(region.name, 0) > begun

        await until(answered)
        load.stopped = True
    return load.heard[region.name] - begun


async def call_tools(load: Load) -> None:
    """One agent and its connection."""
    async with Client(f"{load.url}/mcp") as agent:
        await load.agent(agent)


async def until(reached: Callable[[], bool]) -> None:
    """Waits for that."""
    with anyio.fail_after(300):
        while not reached():
            await anyio.sleep(0.05)


async def summed_up(load: Load, back: float, url: str, regions: list[Region]) -> dict[str, str]:
    """What the callers saw, and what the regions' records say of it."""
    drawn: dict[str, dict[str, str]] = defaultdict(dict)
    async with httpx2.AsyncClient(timeout=60) as client:
        for region in regions:
            for run in await finished(client, region):
                key = run["client_ref"] or ""
                if key in load.told:
                    drawn[key][run["id"]] = await picture(
                        client, f"{region.url}/v1/runs/{run['id']}"
                    )
        lost = load.lost
        for ids in load.told.values():
            # As its caller fetches it, who knows no region.
            got = [await picture(client, f"{url}/v1/runs/{run_id}") for run_id in ids]
            lost += not any(got)
    seconds = sorted(load.seconds)
    doubled = sum(
        len(ids) > 1
        or len({each for each in drawn[key].values() if each}) > 1
        or len({region_of(each) for each in drawn[key]}) < len(drawn[key])
        for key, ids in load.told.items()
    )
    return {
        "runs with keys": str(len(load.told)),
        "calls of the tool": str(load.calls),
        "failed": str(len(load.failed)),
        "lost": str(lost),
        "doubled": str(doubled),
        "drawn in both, alike": str(sum(len(each) > 1 for each in drawn.values()) - doubled),
        "p50": f"{statistics.median(seconds):.2f} s",
        "p99": f"{statistics.quantiles(seconds, n=100, method='inclusive')[-1]:.2f} s",
        "slowest": f"{seconds[-1]:.2f} s",
        "back after": "" if load.name == "undisturbed" else f"{back:.1f} s",
    }


async def finished(client: httpx2.AsyncClient, region: Region) -> list[dict[str, Any]]:
    """All runs of a region, when none of them is under way any more."""
    with anyio.fail_after(180):
        while True:
            found: list[dict[str, Any]] = []
            cursor: str | None = ""
            while cursor is not None:
                asked = f"{region.url}/v1/runs?limit=500" + (cursor and f"&cursor={cursor}")
                page = (await client.get(asked)).json()
                found, cursor = [*found, *page["data"]], page["next"]
            if all(run["completed_at"] for run in found):
                return found
            await anyio.sleep(0.2)


def region_of(run_id: str) -> str:
    """The region that stands behind the UUID."""
    return run_id[37:]


async def picture(client: httpx2.AsyncClient, run: str) -> str:
    """What a run drew, as a hash of its pixels; empty where there is none."""
    answer = await client.get(f"{run}/image")
    if not answer.is_success:
        return ""
    with Image.open(io.BytesIO(answer.content)) as image:
        return hashlib.sha256(image.tobytes()).hexdigest()


if __name__ == "__main__":
    main()
