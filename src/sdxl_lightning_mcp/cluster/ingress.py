"""What answers requests on a cluster: the application of `serve`, in a process of Ray's."""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces.http.operation import JsonLines
from sdxl_lightning_mcp.faces.http.parts import Parts
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.record import SERVE
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.runners.ray import RayRunner
from sdxl_lightning_mcp.server import open_record
from sdxl_lightning_mcp.settings import Settings
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)


class Ingress:
    """The deployment; for requests Serve calls what it builds."""

    def __init__(self, settings: Settings, model: Model, replicas: Any) -> None:
        self._application = Application(settings, model, replicas)
        handler = logging.StreamHandler()
        handler.setFormatter(JsonLines())
        logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application; by this name Serve asks for it, in the process where it is to run."""
        return self._application

    async def drain(self) -> None:
        """Takes nothing in any more, and waits for what is under way."""
        await self._application.drain()


class Application:
    """An ASGI application with which record and runner begin, and with which they end."""

    def __init__(self, settings: Settings, model: Model, replicas: Any) -> None:
        self._settings, self._model, self._replicas = settings, model, replicas
        self._site: Site | None = None
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request; before the first one and after the last one it is told so."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        assert self._app is not None

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Serve's proxy, too, puts it there.
                del MutableHeaders(scope=message)["X-Request-Id"]
            await send(message)

        await self._app(scope, receive, answer)

    async def drain(self) -> None:
        """Takes nothing in any more, and waits for what is under way."""
        assert self._site is not None
        await self._site.drain()

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self._settings
        record = open_record(settings, SERVE)

        def open_runner(ended: Callable[[Run], None]) -> AbstractAsyncContextManager[Runner]:
            return RayRunner.open(
                self._replicas,
                Store(settings.output_dir),
                max_queue=settings.max_queue,
                record=record,
                ended=ended,
            )

        with closing(record):
            parts = Parts(settings, self._model, record)
            await parts.check()
            async with parts.serving(open_runner) as (self._site, self._app):
                await self._app(scope, receive, send)
