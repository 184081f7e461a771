"""The ASGI application: every HTTP face over one runner."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeGuard

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from mcp.server.lowlevel import Server
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sdxl_lightning_mcp.errors import InvalidRequestError, SdxlLightningError
from sdxl_lightning_mcp.faces import mcp
from sdxl_lightning_mcp.faces.http.access import caller
from sdxl_lightning_mcp.faces.http.body import MOST_BYTES
from sdxl_lightning_mcp.faces.http.callbacks import Callbacks
from sdxl_lightning_mcp.faces.http.gate import Gate
from sdxl_lightning_mcp.faces.http.openai import OpenAI
from sdxl_lightning_mcp.faces.http.operation import Metrics, Operation
from sdxl_lightning_mcp.faces.http.pages import Pages
from sdxl_lightning_mcp.faces.http.problems import Refusal, parameter_problem, refusal
from sdxl_lightning_mcp.faces.http.replies import image_link
from sdxl_lightning_mcp.faces.http.rest import Rest
from sdxl_lightning_mcp.faces.http.runs import Runs
from sdxl_lightning_mcp.faces.http.site import Site


def build(site: Site, metrics: Metrics, callbacks: Callbacks) -> ASGIApp:
    """The application, for any ASGI server.

    Args:
        site: What the faces share.
        metrics: What is counted; it is told of refusals here, of runs by the runner.
        callbacks: Who is told of a run's end.
    """
    server = mcp.build(
        site.runner,
        site.model,
        site.settings.preview_bytes,
        site.settings.wait_seconds,
        record=site.record,
        locate=lambda _, run: image_link(run, caller.get().url, site.links),
        owner_of=lambda _: caller.get().owner,
        region=site.settings.region,
    )
    # Host and Origin are checked by the gate, for all faces alike.
    sessions = StreamableHTTPSessionManager(app=server, max_request_body_size=MOST_BYTES)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with sessions.run():
            yield

    app = FastAPI(
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.include_router(Rest(site, callbacks).router())
    app.include_router(Runs(site).router())
    app.include_router(OpenAI(site).router())
    app.include_router(Operation(site, metrics).router())
    Pages(site).add_to(app)
    app.router.routes += [Route("/mcp", StreamableHTTPASGIApp(sessions)), *_sse(server)]
    _tell_errors(app, metrics)
    gated: ASGIApp = Gate(app, site.settings, site.access, metrics)
    if site.settings.allowed_origins:
        gated = CORSMiddleware(
            gated,
            allow_origins=site.settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[
                "Location",
                "Mcp-Session-Id",
                "WWW-Authenticate",
                "X-Region",
                "X-Request-Id",
            ],
        )
    return gated


def _sse(server: Server[Any]) -> list[Route | Mount]:
    """The older transport, for clients that still need it."""
    transport = SseServerTransport("/messages/", max_request_body_size=MOST_BYTES)

    async def connect(scope: Scope, receive: Receive, send: Send) -> None:
        async with transport.connect_sse(scope, receive, send) as streams:
            await server.run(*streams, server.create_initialization_options())

    class Connect:
        """A class, since a function would be wrapped as an endpoint that returns a response."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await connect(scope, receive, send)

    return [
        Route("/sse", Connect(), methods=["GET"]),
        Mount("/messages/", app=transport.handle_post_message),
    ]


def _tell_errors(app: FastAPI, metrics: Metrics) -> None:
    """Every error becomes a problem, whoever raised it."""

    def handler(
        translate: Callable[[Any, Request], Refusal],
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(request: Request, error: Exception) -> Response:
            refused = translate(error, request)
            metrics.refused.labels(refused.code).inc()
            return refused.response(request.state.request_id, request.url.path)

        return handle

    app.add_exception_handler(Refusal, handler(lambda error, _: error))
    app.add_exception_handler(SdxlLightningError, handler(lambda error, _: refusal(error)))
    app.add_exception_handler(RequestValidationError, handler(_invalid))
    app.add_exception_handler(HTTPException, handler(_http))
    app.add_exception_handler(Exception, handler(_unexpected))


def _invalid(error: RequestValidationError, _: Request) -> Refusal:
    """FastAPI's own errors, which are those of queries and paths."""
    return refusal(InvalidRequestError(*map(parameter_problem, error.errors())))


def _http(error: HTTPException, request: Request) -> Refusal:
    codes = {404: "not_found", 405: "method_not_allowed"}
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # The framework tells the methods of one route; a path may have several.
        found = [route.methods for route in request.app.routes if _leads(route, request)]
        headers["Allow"] = ", ".join(sorted({name for names in found for name in names or ()}))
    return Refusal(
        error.status_code,
        codes.get(error.status_code, "http_error"),
        f"{error.detail}. What there is: /api/openapi.public.json",
        headers=headers,
    )


def _leads(route: BaseRoute, request: Request) -> TypeGuard[Route]:
    return isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE


def _unexpected(_: Exception, __: Request) -> Refusal:
    # The server that runs this logs it with its traceback.
    return Refusal(500, "internal_error", "Something went wrong here; the log says what.")
