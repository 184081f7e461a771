"""The HTTP server that carries the application: patient with runs, not with slow clients."""

import asyncio
import logging
import socket
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.settings import Settings

log = logging.getLogger(__name__)

HEADER_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 30
# After draining: for answers that are on their way.
LAST_SECONDS = 5


class Protocol(H11Protocol):
    """uvicorn's, which would wait for ever for the rest of a request's head."""

    _given_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its first request must come soon."""
        super().connection_made(transport)
        self._hurry()

    def data_received(self, data: bytes) -> None:
        """Some of a request has come; the rest of its head must come soon."""
        super().data_received(data)
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._given_up is not None:
            self._given_up.cancel()
        super().connection_lost(exc)

    def _hurry(self) -> None:
        # Until the head is there uvicorn hears nothing of a request, and no clock of its own runs.
        waiting = self.conn.their_state is h11.IDLE
        if waiting and self._given_up is None:
            self._given_up = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not waiting and self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None


class Server(uvicorn.Server):
    """uvicorn's, that on SIGTERM or Ctrl-C finishes what was taken in; the second ends at once."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        options: dict[str, Any] = {
            "http": Protocol,
            "ws": "none",
            "lifespan": "on",
            "log_config": None,
            "access_log": False,
            "proxy_headers": False,
            "server_header": False,
            "timeout_keep_alive": KEEP_ALIVE_SECONDS,
            "timeout_graceful_shutdown": LAST_SECONDS,
        }
        super().__init__(uvicorn.Config(app, **options))
        self._site = site
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, and says where."""
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        await super().startup(sockets)
        host, port = [each for one in sockets or [] for each in one.getsockname()[:2]]
        where = f"[{host}]" if ":" in host else host
        log.info("serving", extra={"fields": {"url": f"http://{where}:{port}"}})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end has come."""
        if self._asked.is_set():
            self.should_exit = self.force_exit = True
        self._loop.call_soon_threadsafe(self._asked.set)

    async def drain_when_asked(self) -> None:
        """Waits for the signal, then for the runs, and then ends the server."""
        await self._asked.wait()
        await self._site.drain()
        self.should_exit = True


def listen(settings: Settings) -> socket.socket:
    """The socket that the settings ask for.

    Raises:
        SettingsError: It cannot be had.
    """
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"--host {settings.host} --port {settings.port}: {error.strerror or error}. "
            "Choose another port, or end what listens there."
        ) from None
    # Named as TCP: else asyncio does not switch Nagle's algorithm off, and the second half of an
    # answer waits for the client's acknowledgement of the first, 40 ms.
    return socket.socket(family, server.type, socket.IPPROTO_TCP, fileno=server.detach())
