"""Measures what `--connect` adds: the same pictures by a runner here and by one over a server here.

make bench      (or: python benchmarks/remote.py [--json FILE] [--quick])
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.server import open_record, open_runner
from sdxl_lightning_mcp.settings import Settings

PROMPT = "a cyberpunk city street at night, neon signs glowing"
SIDES = (512, 1024)


def main() -> None:
    """Measures, and prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="few, only to see that it works")
    options = parser.parse_args()
    figures = anyio.run(measure, 2 if options.quick else 60)
    for name, value in figures.items():
        print(f"{name:60} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


async def measure(count: int) -> dict[str, Any]:
    """The medians of both, drawn in turn: what disturbs one disturbs the other."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder, "there")) as url, AsyncExitStack() as stack:
            runners = {
                name: await stack.enter_async_context(opened(Path(folder, name), **settings))
                for name, settings in {"here": {}, "over the server": {"connect": (url,)}}.items()
            }
            for side in SIDES:
                times: dict[str, list[float]] = {name: [] for name in runners}
                for seed in range(-min(count, 5), count):
                    for name, runner in runners.items():
                        seconds = await drawn(runner, side, seed)
                        if seed >= 0:  # the first ones warm up
                            times[name].append(seconds)
                here, there = (statistics.median(each) for each in times.values())
                what = f"{side}x{side}"
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


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[str]:
    """A server of mini; its address."""
    command = [sys.executable, "-m", "sdxl_lightning_mcp", "serve", "--model", "mini"]
    places = ["--data-dir", str(folder / "data"), "--output-dir", str(folder / "pictures")]
    process = subprocess.Popen(
        [*command, *places, "--port", "0"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    try:
        while b'"url"' not in (line := await anyio.to_thread.run_sync(process.stderr.readline)):
            pass
        async with anyio.create_task_group() as tasks:
            # What is logged must be read, so that the server need not wait.
            tasks.start_soon(
                lambda: anyio.to_thread.run_sync(process.stderr.read, abandon_on_cancel=True)
            )
            yield json.loads(line)["url"]
            process.terminate()
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
