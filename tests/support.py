"""Parts that several tests use."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from mcp import StdioServerParameters

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

ROOT = Path(__file__).parents[1]
# Long enough for a cold worker on a busy machine; every wait in the tests has an end.
PATIENCE = 120.0


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


def workers() -> list[psutil.Process]:
    """The worker processes of runners in this process."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
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
