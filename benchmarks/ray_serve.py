"""Measures what Ray adds to a run, what it costs, and what is lost when parts of it are killed.

make ray      (or: python benchmarks/ray_serve.py [--json FILE] [--quick], with the extra `ray`)
"""

import re
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import psutil
from served import PROMPT, RUNS, Server, serving, tell

SMALL = {"prompt": PROMPT, "width": 512, "height": 512, "steps": 1}
# Between two kills: longer than a replica needs to be back.
RECOVERY = 20.0
CLIENTS = 4
ROOM = ("--max-queue", "1000")


def measure(few: bool) -> dict[str, Any]:
    """Every figure by its name."""
    figures = anyio.run(overhead, 10 if few else 100)
    return figures | anyio.run(faults, 2 if few else 10)


def memory(server: Server) -> float:
    """Bytes of all its processes; what several share is counted once (PSS)."""
    total = 0
    for one in (server.process, *server.process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total


def parts(server: Server, name: str) -> list[psutil.Process]:
    """Ray's processes of that name; behind it stands what they are doing."""
    found: list[psutil.Process] = []
    for one in server.process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if re.match(rf"ray::.*{name}\b", "".join(one.cmdline()[:1])):
                found.append(one)
    return found


# --- what it adds ------------------------------------------------------------------------------


async def overhead(count: int) -> dict[str, Any]:
    """The same pictures by `serve` and by `serve --ray`, in turn: times, start, memory."""
    times: dict[str, list[float]] = {"serve": [], "serve --ray": []}
    figures: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, flags in {"serve": (), "serve --ray": ("--ray",)}.items():
            begun = time.perf_counter()
            server = await stack.enter_async_context(serving("--device", "cpu", *ROOM, *flags))
            await server.ready()
            figures[f"{name}, start to ready"] = f"{time.perf_counter() - begun:.1f} s"
            servers[name] = server
        for number in range(-5, count):
            for name, server in servers.items():
                body = {"input": {**SMALL, "seed": abs(number)}}
                begun = time.perf_counter()
                answer = await server.client.post(RUNS, json=body, headers={"Prefer": "wait=60"})
                assert answer.status_code == 201, answer.text
                if number >= 0:  # the first ones warm up
                    times[name].append(time.perf_counter() - begun)
        for name, server in servers.items():
            figures[f"{name}, memory (PSS)"] = f"{memory(server) / 2**20:.0f} MiB"
    alone, ray = (statistics.median(each) for each in times.values())
    return {
        "serve, run p50": f"{alone * 1000:.0f} ms",
        "serve --ray, run p50": f"{ray * 1000:.0f} ms",
        "Ray adds, p50": f"{(ray - alone) * 1000:.1f} ms",
        **figures,
    }


# --- what is lost ------------------------------------------------------------------------------


@dataclass
class Load:
    """Clients that ask for one run after another, and what becomes of each.

    With `retry`, what was not answered is asked again with the same idempotency key.
    """

    server: Server
    retry: bool
    answered: int = 0
    again: int = 0
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0
    stopped: bool = False

    async def ask(self, name: str) -> None:
        """One client, until it is stopped."""
        number = 0
        while not self.stopped:
            number += 1
            begun = time.perf_counter()
            await self.one(f"{name}-{number}")
            self.slowest = max(self.slowest, time.perf_counter() - begun)

    async def one(self, key: str) -> None:
        """One run, from its wish to its picture."""
        headers = {"Prefer": "wait=60", "Idempotency-Key": key}
        body = {"input": {**SMALL, "steps": 2, "seed": abs(hash(key)) % 2**32}}
        until = time.monotonic() + 60
        while True:
            try:
                answer = await self.server.client.post(RUNS, json=body, headers=headers)
                ended = answer.json().get("status_code") if answer.status_code < 300 else None
                if ended == "succeeded":
                    self.answered += 1
                    return
                why = f"{answer.status_code} {answer.text[:200]}"
            except httpx2.TransportError as error:
                why = repr(error)
            if not self.retry or time.monotonic() > until:
                self.lost.append(why)
                return
            self.again += 1
            await anyio.sleep(0.2)


@asynccontextmanager
async def under_load(server: Server, *, retry: bool) -> AsyncGenerator[Load]:
    """Clients ask all the while."""
    load = Load(server, retry)
    async with anyio.create_task_group() as tasks:
        for number in range(CLIENTS):
            tasks.start_soon(load.ask, f"{time.time_ns()}-{number}")
        await anyio.sleep(1)
        yield load
        load.stopped = True


async def faults(kills: int) -> dict[str, Any]:
    """Replicas and the proxy are killed while clients ask."""
    figures: dict[str, Any] = {}
    async with serving("--ray", "--device", "cpu,cpu", *ROOM) as server:
        await server.ready()
        backs: list[float] = []
        async with under_load(server, retry=False) as load:
            for _ in range(kills):
                before = parts(server, ":replica")
                before[0].kill()
                backs.append(
                    await until(lambda b=before: len({*parts(server, ":replica")} - {*b}) > 0)
                )
                await anyio.sleep(RECOVERY)
        what = f"kill -9 of one of two replicas, {kills} times"
        figures[f"{what}: lost, without retry"] = f"{len(load.lost)} of {load.answered}"
        figures[f"{what}: slowest run"] = f"{load.slowest:.1f} s"
        figures[f"{what}: new process after, at most"] = f"{max(backs):.1f} s"
        print(*load.lost, sep="\n", file=sys.stderr)
        for name, process in {"proxy": "ProxyActor", "ingress": ":ingress"}.items():
            backs, total = [], Load(server, retry=True)
            for _ in range(max(1, kills // 3)):
                async with under_load(server, retry=True) as load:
                    victim = parts(server, process)[0]
                    victim.kill()
                    backs.append(await answering(server))
                    await anyio.sleep(RECOVERY / 2)
                total.answered += load.answered
                total.again += load.again
                total.lost += load.lost
            what = f"kill -9 of the {name}, {len(backs)} times"
            figures[f"{what}: answers again after, at most"] = f"{max(backs):.1f} s"
            figures[f"{what}: lost, with retry"] = f"{len(total.lost)} of {total.answered}"
            figures[f"{what}: asked again"] = total.again
    return figures


async def until(reached: Callable[[], bool]) -> float:
    """Seconds until that is so."""
    begun = time.perf_counter()
    while not reached():
        await anyio.sleep(0.05)
    return time.perf_counter() - begun


async def answering(server: Server) -> float:
    """Seconds until a client that connects anew is answered."""
    begun = time.perf_counter()
    await anyio.sleep(0.1)
    while True:
        with suppress(httpx2.TransportError):
            async with httpx2.AsyncClient(base_url=server.client.base_url, timeout=5) as client:
                if (await client.get("/livez")).status_code == 200:
                    return time.perf_counter() - begun
        await anyio.sleep(0.1)


if __name__ == "__main__":
    tell(__doc__, measure)
