"""What every request passes before any face sees it: names, origins, callers, request ids."""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdxl_lightning_mcp.errors import SdxlLightningError
from sdxl_lightning_mcp.faces.http.access import RESOURCE_METADATA, Access, caller
from sdxl_lightning_mcp.faces.http.operation import Metrics
from sdxl_lightning_mcp.faces.http.problems import Refusal, refusal
from sdxl_lightning_mcp.ids import new_run_id
from sdxl_lightning_mcp.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# Somewhat longer than what those wait who can say so.
BODY_SECONDS = 15.0
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# What watches over servers calls them by address, and learns nothing else.
PROBES = ("/livez", "/readyz")
OPEN = (*PROBES, "/", "/llms.txt", "/api/openapi.public.json")
OPEN_BELOW = ("/docs/", "/models/", "/.well-known/")


class Gate:
    """ASGI middleware; what it refuses never reaches the application."""

    def __init__(self, app: ASGIApp, settings: Settings, access: Access, metrics: Metrics) -> None:
        self._app, self._access, self._metrics = app, access, metrics
        self._public_url, self._region = settings.public_url, settings.region
        public = urlsplit(settings.public_url).netloc if settings.public_url else ""
        # This machine's own names need no leave: no foreign name resolves into them.
        names = (*LOOPBACK, *settings.allowed_hosts, public)
        self._hosts = {host.lower() for host in names if host}
        self._origins = {*settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request itself, or lets the application do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else new_run_id()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["X-Request-Id"] = request_id
                if self._region:
                    told["X-Region"] = self._region
                told.setdefault("X-Content-Type-Options", "nosniff")
                told.setdefault("Referrer-Policy", "no-referrer")
            await send(message)

        scope.setdefault("state", {})["request_id"] = request_id
        try:
            if scope["path"] not in PROBES:
                self._check_host(headers.get("host", ""))
            self._check_origin(headers, scope)
            url = self._public_url or f"{scope['scheme']}://{headers.get('host', '')}"
            scope["state"]["url"] = url
            if not _is_open(scope):
                known = await self._access.identify(headers, url)
                caller.set(known)
                if known.owner is not None:
                    # By that the MCP SDK binds a session to whoever began it.
                    token = AccessToken(token="", client_id=known.owner, scopes=[])
                    scope["user"] = AuthenticatedUser(token)
        except (Refusal, SdxlLightningError) as error:
            refused = error if isinstance(error, Refusal) else refusal(error)
            self._metrics.refused.labels(refused.code).inc()
            await refused.response(request_id, scope["path"])(scope, receive, answer)
            return
        await self._app(scope, _in_time(receive), answer)

    def _check_host(self, host: str) -> None:
        name = re.sub(r":\d+$", "", host.lower())
        if not ({name, host.lower()} & self._hosts):
            raise Refusal(
                421,
                "host_not_allowed",
                f"This server is not reached as {host[:200]!r}. "
                "Its names are set by --allowed-hosts or SDXL_LIGHTNING_ALLOWED_HOSTS.",
            )

    def _check_origin(self, headers: Headers, scope: Scope) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self._origins:
            return
        # The host is one of ours: a page that came from there may ask here.
        own = {f"{scope['scheme']}://{headers.get('host', '')}", self._public_url}
        if origin not in own:
            raise Refusal(
                403,
                "origin_not_allowed",
                f"Pages of {origin[:200]!r} may not call this server. "
                "Those that may are set by SDXL_LIGHTNING_ALLOWED_ORIGINS.",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _in_time(receive: Receive) -> Receive:
    """The request's messages; a body that comes too slowly is one that ends in the middle."""
    deadline = anyio.current_time() + BODY_SECONDS
    whole = False

    async def receive_in_time() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        with anyio.move_on_after(deadline - anyio.current_time()):
            message = await receive()
            whole = not message.get("more_body", False)
            return message
        return {"type": "http.disconnect"}

    return receive_in_time


def _is_open(scope: Scope) -> bool:
    """What needs no key: what the server is, whether it lives, and what carries a signature."""
    path, query = scope["path"], scope["query_string"]
    signed: Sequence[bytes] = [part for part in query.split(b"&") if part.startswith(b"signature=")]
    return (
        path in OPEN
        or path.startswith(OPEN_BELOW)
        or path.startswith(RESOURCE_METADATA)
        or scope["method"] == "OPTIONS"
        or (bool(signed) and re.fullmatch(r"/v1/runs/[^/]+/image", path) is not None)
    )
