"""One connection in either era of the protocol: the handshake's, and that of 2026-07-28."""

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_dual_era_loop, serve_loop
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest

Feed = MemoryObjectSendStream[SessionMessage | Exception]

PROBE, HANDSHAKE = "server/discover", "initialize"


async def serve(
    server: Server[Any], incoming: Any, outgoing: Any, *, handshake_only: bool = False
) -> None:
    """Serves one connection over a pair of streams until the incoming one ends.

    The first request decides the era, except that a client which has only probed for the newer one
    may still shake hands: Claude Code does so, and the SDK's own loop then refuses it.

    Args:
        server: What answers.
        incoming: Messages of the client, as the SDK's transports yield them.
        outgoing: Where answers and notifications go; closed at the end.
        handshake_only: Whether to answer as a server that knows no newer era.
    """
    async with server.lifespan(server) as state:
        if handshake_only:
            await serve_loop(server, incoming, outgoing, lifespan_state=state)
            return
        answers, answered = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_forward, answered, outgoing)
            async with answers:

                def begin() -> Feed:
                    feed, fed = anyio.create_memory_object_stream[SessionMessage | Exception]()
                    loop = partial(serve_dual_era_loop, server, fed, lifespan_state=state)
                    tasks.start_soon(loop, answers.clone())
                    return feed

                await _feed(incoming, begin)


async def _feed(incoming: Any, begin: Callable[[], Feed]) -> None:
    """Gives every message to the loop of its era; a loop that was only probed is left behind."""
    feeds = [begin()]
    asked: set[str] = set()
    try:
        async for item in incoming:
            method = _method(item)
            if method == HANDSHAKE and asked == {PROBE}:
                # The old loop may still be at its answer to the probe: it is not ended before.
                feeds.append(begin())
            if method and len(asked) < 2:
                asked.add(method)
            await feeds[-1].send(item)
    finally:
        for feed in feeds:
            feed.close()


def _method(item: object) -> str | None:
    """What a message asks for; None where it is no request."""
    message = item.message if isinstance(item, SessionMessage) else None
    return message.method if isinstance(message, JSONRPCRequest) else None


async def _forward(answered: MemoryObjectReceiveStream[SessionMessage], outgoing: Any) -> None:
    async with answered, outgoing:
        async for message in answered:
            await outgoing.send(message)
