"""The ways in which a picture is asked for: the public API, the MCP wire, the engine alone."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ImageContent

from sdxl_lightning_mcp.bench.asking import Draw
from sdxl_lightning_mcp.bench.plan import Plan
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.environment import environment_with
from sdxl_lightning_mcp.errors import RunFailedError
from sdxl_lightning_mcp.faces.mcp import TOOL
from sdxl_lightning_mcp.library import LoadedModel, load
from sdxl_lightning_mcp.runners.answers import headers
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.settings import Settings

API, MCP, ENGINE = "public API", "MCP over stdio", "engine call"
OVER_HTTP = "MCP over HTTP"
PIPELINE, LOCKED = "plain pipeline", "plain pipeline with a lock"


@asynccontextmanager
async def stdio_client(settings: Settings) -> AsyncGenerator[Client]:
    """A client with a server process of its own, which ends with it."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "sdxl_lightning_mcp"],
        # Measured is how long a picture takes, however long that is.
        # An engine of its own, whose memory and start are measured with it.
        env=environment_with(settings.model_copy(update={"wait_seconds": 86_400, "private": True})),
    )
    async with Client(server, mode="legacy") as client:
        yield client


@asynccontextmanager
async def http_client(settings: Settings) -> AsyncGenerator[Client]:
    """A client of the server that the settings connect to."""
    (url,) = settings.connect
    options: dict[str, Any] = {"headers": headers(settings.connect_token), "timeout": 86_400}
    async with httpx2.AsyncClient(**options) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport) as client:
            yield client


def by_runner(runner: Runner, model: Model, plan: Plan) -> Draw:
    """Draws as a program does that opens a runner."""

    async def draw(number: int) -> None:
        run = await runner.submit(plan.parameters(number, model))
        await run.finished()

    return draw


def by_tool(client: Client, plan: Plan) -> Draw:
    """Draws as an agent does."""

    async def draw(number: int) -> None:
        result: Any = await client.call_tool(TOOL, plan.arguments(number))
        first = result.content[0]
        if result.is_error or not isinstance(first, ImageContent):
            raise RunFailedError(str(first.text))

    return draw


def open_engine(settings: Settings) -> LoadedModel:
    """The engine in this process; what was let go before is gone first."""
    prepare_memory(settings.device)
    return load(
        settings.model,
        loras=settings.lora,
        vae=settings.vae,
        speed=settings.speed,
        device=settings.device,
    )


def prepare_memory(device: str) -> None:
    """Frees what nobody holds any more, and keeps what comes as a worker does.

    Two copies of a large model do not fit everywhere; and all that is compared has equal memory.
    """
    from sdxl_lightning_mcp.engine.memory import keep_memory, release_memory
    from sdxl_lightning_mcp.engine.tuning import tune

    release_memory(tune(device).device)
    keep_memory(tune(device).device)


def by_engine(loaded: LoadedModel, plan: Plan) -> Draw:
    """Draws as the library does: prompt in, JPEG in memory out."""

    async def draw(number: int) -> None:
        fields = plan.arguments(number)
        loaded(str(fields.pop("prompt")), **fields)

    return draw
