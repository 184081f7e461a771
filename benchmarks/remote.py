"""Measures what `--connect` adds: the same pictures by a runner here and by one over a server here.

make bench      (or: python benchmarks/remote.py [--json FILE] [--quick])
"""

import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from served import PROMPT, serving, tell

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.server import open_record, open_runner
from sdxl_lightning_mcp.settings import Settings

SIDES = (512, 1024)


def measure(few: bool) -> dict[str, Any]:
    """Every figure by its name."""
    figures: dict[str, Any] = {}
    # Engines that leave a core to others are as beside a GPU; else what asks takes time from them.
    for where, threads in {"a core free": "1", "all cores drawing": None}.items():
        if threads:
            os.environ["OMP_NUM_THREADS"] = threads
        else:
            os.environ.pop("OMP_NUM_THREADS", None)
        figures |= anyio.run(compare, where, 2 if few else 60)
    return figures


async def compare(where: str, count: int) -> dict[str, Any]:
    """The medians of both, drawn in turn: what disturbs one disturbs the other."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with serving() as server, AsyncExitStack() as stack:
            runners = {
                name: await stack.enter_async_context(opened(Path(folder, name), **settings))
                for name, settings in {
                    "here": {},
                    "over a server": {"connect": (server.url,)},
                }.items()
            }
            for side in SIDES:
                times: dict[str, list[float]] = {name: [] for name in runners}
                for seed in range(-min(count, 5), count):
                    for name, runner in runners.items():
                        seconds = await drawn(runner, side, seed)
                        if seed >= 0:  # the first ones warm up
                            times[name].append(seconds)
                here, there = (statistics.median(each) for each in times.values())
                what = f"{where}, {side}x{side}"
                figures[f"{what}, a run here, p50"] = f"{here:.3f} s"
                figures[f"{what}, a run over a server on the same machine, p50"] = f"{there:.3f} s"
                figures[f"{what}, added, p50"] = f"{(there - here) * 1000:.1f} ms"
    return figures


async def drawn(runner: Runner, side: int, seed: int) -> float:
    """Seconds from submitting a run to its picture on disk and its end on record."""
    wish = {"prompt": f"{PROMPT}, number {seed}", "seed": abs(seed), "width": side, "height": side}
    parameters, _ = resolve(read_request(wish, MINI), MINI)
    begun = time.perf_counter()
    run = await runner.submit(parameters)
    await run.finished()
    return time.perf_counter() - begun


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncGenerator[Runner]:
    """A runner with a record and pictures of its own, as the stdio server has it."""
    places = {"output_dir": folder / "pictures", "data_dir": folder / "data"}
    chosen = Settings(model="mini", **places, **settings)
    record = open_record(chosen, "stdio")
    try:
        async with open_runner(chosen, MINI, record=record) as runner:
            yield runner
    finally:
        record.close()


if __name__ == "__main__":
    tell(__doc__, measure)
