"""Parts that several tests use."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import psutil
from anyio.abc import Process
from mcp import StdioServerParameters
from PIL import Image

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

ROOT = Path(__file__).parents[1]
# Long enough for a cold worker on a busy machine; every wait in the tests has an end.
PATIENCE = 120.0
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@asynccontextmanager
async def mini_runner(folder: Path, **options: Any) -> AsyncIterator[LocalRunner]:
    """A runner of mini with a worker process of its own, as the server has it."""
    async with LocalRunner.open(MINI, Store(folder), devices=[Device("cpu")], **options) as runner:
        yield runner


def stdio_server(
    *flags: str, cwd: Path | None = None, command: str | None = None, **environment: str
) -> StdioServerParameters:
    """How a client starts the server; the environment is only what is given here."""
    home = os.environ["HOME"]
    return StdioServerParameters(
        command=command or sys.executable,
        args=[*flags] if command else ["-m", "sdxl_lightning_mcp", *flags],
        env={
            "HOME": home,
            "PATH": "/usr/bin:/bin",
            # The code that is tested, also where it is not what is installed.
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "SDXL_LIGHTNING_MODEL": "mini",
            "SDXL_LIGHTNING_PRIVATE": "1",
            # On a busy machine a picture may take longer than clients wait.
            "SDXL_LIGHTNING_WAIT_SECONDS": str(PATIENCE),
            **environment,
        },
        cwd=cwd,
    )


def command(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The command line as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "sdxl_lightning_mcp", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def workers(pid: int | None = None) -> list[psutil.Process]:
    """The worker processes of runners in this process, or in that one."""
    found: list[psutil.Process] = []
    for child in psutil.Process(pid).children():
        # One that has just died tells nothing of itself any more.
        with suppress(psutil.NoSuchProcess):
            if "sdxl_lightning_mcp.runners.worker" in child.cmdline():
                found.append(child)
    return found


async def until(run: Run, reached: Callable[[], bool]) -> None:
    """Watches a run until that is so, or the run has ended."""
    async for _ in run.updates():
        if reached():
            return


async def until_step(run: Run, step: int) -> None:
    await until(run, lambda: run.step >= step)


async def started(folder: Path, *flags: str) -> Process:
    """The server process, with its stderr in a file."""
    with (folder / "stderr").open("wb") as stderr:
        return await anyio.open_process(
            [sys.executable, "-m", "sdxl_lightning_mcp", "--output-dir", str(folder), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )


async def say(process: Process, *messages: object) -> None:
    assert process.stdin is not None
    for message in messages:
        await process.stdin.send(json.dumps(message).encode() + b"\n")


@contextmanager
def answering(server: ThreadingHTTPServer) -> Iterator[str]:
    """Its address, while a thread answers for it."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal to noise in dB, 100 where they are equal."""
    a, b = (np.asarray(picture, dtype=np.float64) for picture in (one, other))
    error = float(((a - b) ** 2).mean())
    return 100.0 if error == 0 else 10 * np.log10(255**2 / error)


def drawn(sdxl: Sdxl, wish: Parameters) -> Image.Image:
    return drawn_together(sdxl, wish)[0]


def drawn_together(sdxl: Sdxl, *wishes: Parameters) -> list[Image.Image]:
    """Pictures whose steps are shared calls."""
    samples = [sdxl.prepare(str(index), wish) for index, wish in enumerate(wishes)]
    while open_ones := [sample for sample in samples if not sample.denoised]:
        sdxl.denoise(open_ones)
    return [sdxl.decode(sample) for sample in samples]
