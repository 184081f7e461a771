"""Parts that several tests use."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mcp import StdioServerParameters

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

ROOT = Path(__file__).parents[1]
# Long enough for a cold worker on a busy machine; every wait in the tests has an end.
PATIENCE = 120.0


@asynccontextmanager
async def mini_runner(folder: Path, **options: int) -> AsyncIterator[LocalRunner]:
    """A runner of mini with a worker process of its own, as the server has it."""
    async with LocalRunner.open(MINI, Store(folder), device="cpu", **options) as runner:
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
            "SDXL_LIGHTNING_MODEL": "mini",
            **environment,
        },
        cwd=cwd,
    )
