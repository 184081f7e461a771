"""Measures what further clients cost that share an engine, beside such as have one each.

make bench      (or: python benchmarks/shared_engine.py [--json FILE] [--quick])
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp import Client, StdioServerParameters
from served import PROMPT, tell

CLIENTS = 3
WAYS = {"shared": "one engine for all", "private": "an engine each"}


def measure(few: bool) -> dict[str, Any]:
    """Every figure of both ways by its name."""
    figures: dict[str, Any] = {}
    for way, title in WAYS.items():
        rounds = [anyio.run(follow, way) for _ in range(1 if few else 5)]
        for name in rounds[0]:
            value = statistics.median(one[name] for one in rounds)
            what, _, unit = name.rpartition(", in ")
            digits = 0 if unit == "MB" else 2
            figures[f"{title}: {what or name}"] = (
                f"{value:.{digits}f} {unit if what else ''}".strip()
            )
    return figures


async def follow(way: str) -> dict[str, float]:
    """Clients that come one after another and stay: memory with each, and times to their pictures.

    Megabytes are the proportional set size of all processes together: what several have in common
    counts once.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with AsyncExitStack() as stack:
            for number in range(1, CLIENTS + 1):
                begun = time.perf_counter()
                client = await stack.enter_async_context(connected(way, Path(folder)))
                await draw(client, number)
                drawn = time.perf_counter()
                await draw(client, number + CLIENTS)
                figures[f"client {number}, start to picture, in s"] = drawn - begun
                figures[f"client {number}, its next picture, in s"] = time.perf_counter() - drawn
                figures[f"memory with client {number}, in MB"] = memory(folder) / 1e6
        one, two = (figures[f"client {number}, start to picture, in s"] for number in (1, 2))
        figures["client 2 / client 1, start to picture"] = two / one
        first, last = (figures[f"memory with client {number}, in MB"] for number in (1, CLIENTS))
        figures["memory of each client after the first, in MB"] = (last - first) / (CLIENTS - 1)
        await end_engines(folder)
    return figures


@asynccontextmanager
async def connected(way: str, folder: Path) -> AsyncGenerator[Client]:
    """A client with a server of its own, which has its engine as `way` says."""
    (folder / "run").mkdir(mode=0o700, exist_ok=True)
    said = {
        "MODEL": "mini",
        "PRIVATE": str(way == "private"),
        "ENGINE_IDLE_MINUTES": "0",
        "OUTPUT_DIR": str(folder / "pictures"),
        "DATA_DIR": str(folder / "data"),
        "LOG_LEVEL": "warning",
    }
    server = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "sdxl_lightning_mcp"],
        env={
            **os.environ,
            "XDG_RUNTIME_DIR": str(folder / "run"),
            **{f"SDXL_LIGHTNING_{name}": value for name, value in said.items()},
        },
    )
    async with Client(server, mode="legacy") as client:
        yield client


async def draw(client: Client, seed: int) -> None:
    """One picture, as an agent asks for it."""
    result: Any = await client.call_tool("generate_image", {"prompt": PROMPT, "seed": seed})
    assert not result.is_error, result


def processes(folder: str) -> list[psutil.Process]:
    """The servers below this process, their workers, and the engines that meet in this folder."""
    found = {*psutil.Process().children(recursive=True)}
    for one in psutil.process_iter(["cmdline"]):
        if any(str(word).startswith(folder) for word in one.info["cmdline"] or ()):
            found.add(one)
            found.update(one.children(recursive=True))
    return [one for one in found if "sdxl_lightning_mcp" in " ".join(one.cmdline())]


def memory(folder: str) -> int:
    """Bytes that they hold together; where the system knows no shares, what is each one's own."""
    told = [one.memory_full_info() for one in processes(folder)]
    return sum(getattr(one, "pss", one.uss) for one in told)


async def end_engines(folder: str) -> None:
    """Sees the engine end, as it does when its last server has."""
    with anyio.fail_after(30):
        while processes(folder):
            await anyio.sleep(0.05)


if __name__ == "__main__":
    tell(__doc__, measure)
