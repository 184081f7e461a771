"""A run's progress as server-sent events, for whoever asks for it and whoever comes later."""

import base64
import json
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import anyio
from fastapi import Request
from sse_starlette import EventSourceResponse

from sdxl_lightning_mcp.faces.http.replies import progress, run_reply
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.run import Run, Status

MEDIA_TYPE = "text/event-stream"


def wants_events(request: Request) -> bool:
    """Whether events are asked for, and not JSON."""
    accepted = request.headers.get("accept", "")
    return MEDIA_TYPE in accepted and "json" not in accepted


def events(
    site: Site,
    run: Run,
    url: str,
    *,
    picture: bool = False,
    headers: Mapping[str, str] | None = None,
) -> EventSourceResponse:
    """Events named by the run's status with its progress, then `done` with the whole run.

    Args:
        site: Where the run is.
        run: The run.
        url: What links begin with.
        picture: Whether the file comes with `done`, in base64.
        headers: More of them.
    """
    return EventSourceResponse(
        _tell(site, run, url, picture=picture),
        headers={"Cache-Control": "no-store", **(headers or {})},
        shutdown_event=site.runner.closed,
        shutdown_grace_period=1,
    )


async def _tell(site: Site, run: Run, url: str, *, picture: bool) -> AsyncGenerator[bytes]:
    async for _ in run.updates():
        if not run.done:
            yield _event(str(run.status), progress(run))
    if site.runner.closed.is_set() and run.status is Status.CANCELED:
        return  # left to the next server, where the client's next attempt finds it
    reply = run_reply(run, url, site.links)
    # One that was removed meanwhile is missed by whoever wants it.
    if picture and run.path and run.path.is_file():
        (output,) = reply["output"]["outputs"]
        output["b64_json"] = await anyio.to_thread.run_sync(_in_base64, run.path)
    yield _event("done", reply)


def _in_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    # As it goes out: JSON has no line breaks to be looked for, and a picture is long.
    return f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()
