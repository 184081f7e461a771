"""Parts that the tests share: real ones, on the model that ships."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

ROOT = Path(__file__).parents[1]
# Long enough for a cold worker on a busy machine; every wait in the tests has an end.
PATIENCE = 120.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads this machine's settings or writes into a person's pictures."""
    for name in os.environ:
        if name.startswith("SDXL_LIGHTNING_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_PICTURES_DIR", str(tmp_path / "home" / "Pictures"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    (tmp_path / "home").mkdir()
    yield


@pytest.fixture(scope="session")
def mini() -> Sdxl:
    """The shipped weights in float32 on the CPU, opened once."""
    return Sdxl.open(MINI.checkpoint, FLOAT32_CPU)


@pytest.fixture
def parameters() -> Parameters:
    """A small picture with everything decided."""
    return Parameters(
        model="mini",
        checkpoint=MINI.checkpoint.name,
        prompt="a city skyline at night",
        negative_prompt="",
        seed=7,
        width=512,
        height=512,
        guidance=0.0,
        steps=4,
    )


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
        env={"HOME": home, "PATH": "/usr/bin:/bin", **environment},
        cwd=cwd,
    )


@asynccontextmanager
async def stdio_client(
    *flags: str, mode: str = "legacy", **environment: str
) -> AsyncIterator[Client]:
    async with Client(stdio_server(*flags, **environment), mode=mode) as client:  # type: ignore[arg-type]
        yield client
