"""Composition: settings -> runner and store -> faces."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from sdxl_lightning_mcp.catalogue import Model, find
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.settings import Settings
from sdxl_lightning_mcp.store import Store


@asynccontextmanager
async def open_runner(settings: Settings) -> AsyncGenerator[tuple[Runner, Model]]:
    """The runner that the settings ask for, loading in the background, and its model.

    Raises:
        UnknownModelError: No model has the name in the settings.
    """
    model = find(settings.model)
    async with LocalRunner.open(
        model,
        Store(settings.output_dir),
        device=settings.device,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        log_level=settings.log_level,
    ) as runner:
        yield runner, model


async def serve_stdio(settings: Settings) -> None:
    """Serves MCP over stdin and stdout until stdin ends; then the worker is gone too."""
    from mcp.server.runner import serve_loop
    from mcp.server.stdio import stdio_server

    from sdxl_lightning_mcp.faces import mcp

    async with stdio_server() as (incoming, outgoing), open_runner(settings) as (runner, model):
        server = mcp.build(runner, model, settings.preview_bytes)
        # The handshake era only: a client that probes for the newer one and then shakes hands on
        # the same pipe, as Claude Code does, is refused by a server that answers the probe.
        async with server.lifespan(server) as state:
            await serve_loop(server, incoming, outgoing, lifespan_state=state)
