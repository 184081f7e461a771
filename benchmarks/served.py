"""What the benchmarks of servers share: a server as people start it, and how figures are told."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil

PROMPT = "a cyberpunk city street at night, neon signs glowing"
RUNS = "/v1/models/mini/runs"


def tell(what: str | None, measure: Callable[[bool], Mapping[str, Any]]) -> None:
    """Measures and prints a line for each figure, as the flags say; `--quick` is passed on."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="few, only to see that it works")
    options = parser.parse_args()
    figures = measure(options.quick)
    for name, value in figures.items():
        print(f"{name:70} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


@dataclass
class Server:
    """A running server of mini, and a client of it."""

    url: str
    process: psutil.Process
    client: httpx2.AsyncClient

    async def ready(self) -> None:
        """Waits until a device is."""
        while (await self.client.get("/readyz")).status_code != 200:
            await anyio.sleep(0.1)


@asynccontextmanager
async def serving(*flags: str, **settings: object) -> AsyncGenerator[Server]:
    """`serve` with a record and pictures of its own; it need not be ready yet."""
    said = {f"SDXL_LIGHTNING_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory() as folder:
        places = ("--data-dir", f"{folder}/data", "--output-dir", f"{folder}/pictures")
        command = [sys.executable, "-m", "sdxl_lightning_mcp", "serve", "--model", "mini"]
        async with await anyio.open_process(
            [*command, *places, "--port", "0", *flags],
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
                tasks.start_soon(_drain, process.stderr)
                yield Server(url, psutil.Process(process.pid), client)
                tasks.cancel_scope.cancel()
            process.terminate()
            await process.wait()


async def _drain(stream: Any) -> None:
    """Reads what is logged, so that the server need not wait."""
    async for _ in stream:
        pass
