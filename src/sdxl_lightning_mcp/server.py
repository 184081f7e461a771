"""Composition: settings -> runner and store -> faces."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.selection import select
from sdxl_lightning_mcp.settings import Settings, visible_gpus
from sdxl_lightning_mcp.store import Store


def choose_model(settings: Settings) -> Model:
    """The model that the settings ask for.

    Raises:
        UnknownModelError, WeightsError, SettingsError: As `select`.
    """
    return select(settings.model, settings.lora, settings.vae, settings.device, visible_gpus())


@asynccontextmanager
async def open_runner(settings: Settings, model: Model) -> AsyncGenerator[Runner]:
    """The runner that the settings ask for, loading in the background."""
    async with LocalRunner.open(
        model,
        Store(settings.output_dir),
        device=settings.device,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        idle_seconds=settings.idle_minutes * 60 or None,
        log_level=settings.log_level,
    ) as runner:
        yield runner


async def serve_stdio(settings: Settings, model: Model) -> None:
    """Serves MCP over stdin and stdout until stdin ends; then the worker is gone too."""
    from mcp.server.runner import serve_loop
    from mcp.server.stdio import stdio_server

    from sdxl_lightning_mcp.faces import mcp

    async with stdio_server() as (incoming, outgoing), open_runner(settings, model) as runner:
        server = mcp.build(runner, model, settings.preview_bytes)
        # The handshake era only: a client that probes for the newer one and then shakes hands on
        # the same pipe, as Claude Code does, is refused by a server that answers the probe.
        async with server.lifespan(server) as state:
            await serve_loop(server, incoming, outgoing, lifespan_state=state)
