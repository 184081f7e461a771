"""What stands where a server of ours is expected: others, and what passes on to several."""

import itertools
import json
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from support import answering

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.runners.answers import CARD


@asynccontextmanager
async def balancing(*urls: str) -> AsyncIterator[str]:
    """An address whose connections go to these servers in turn, past those that are not there."""
    places = itertools.cycle(urllib.parse.urlsplit(url) for url in urls)

    async def pass_on(incoming: ByteStream, outgoing: ByteStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in incoming:
                await outgoing.send(data)
        await outgoing.aclose()

    async def connect(client: SocketStream) -> None:
        for place in itertools.islice(places, len(urls)):
            with suppress(OSError):
                server = await anyio.connect_tcp(str(place.hostname), place.port or 0)
                break
        else:
            return
        async with client, server, anyio.create_task_group() as both:
            both.start_soon(pass_on, client, server)
            both.start_soon(pass_on, server, client)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, connect)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


@contextmanager
def strange_server(answers: dict[str, tuple[int, str, str]]) -> Iterator[str]:
    """A stand-in that says it is one of ours and ready, and answers runs as is said here.

    `answers` are status, type and body by the last part of the path.
    """
    model = {
        "version": version("sdxl-lightning-mcp"),
        "description": CARD.dump_python(MINI.described, mode="json"),
    }
    known = {
        "models": (200, "application/json", json.dumps({"data": [model]})),
        "readyz": (200, "application/json", "{}"),
        **answers,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, body = known[self.path.rpartition("/")[2]]
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url
