"""A run as content blocks, within what clients take."""

import base64
from collections.abc import Callable
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp_types import CallToolResult, ImageContent, ResourceLink, TextContent

from sdxl_lightning_mcp.image import preview
from sdxl_lightning_mcp.run import Run

FACTS = "sdxl-lightning-mcp/run"
# Claude's limit on a tool's result is about 150,000; the envelope around it takes some.
RESULT_CHARACTERS = 149_000

Context = ServerRequestContext[Any, Any]
# Where the client of this request finds the full file of a run: file: for one on this machine.
Locate = Callable[[Context, Run], str]


def on_this_machine(_: Context, run: Run) -> str:
    """The file itself, for a client that runs beside the server."""
    assert run.path is not None
    return run.path.as_uri()


def facts_of(run: Run, uri: str | None) -> dict[str, Any]:
    """The run as data: all that `Run.facts` says, its status, and where this client finds it."""
    facts: dict[str, Any] = {**run.facts, "status": str(run.status)}
    if not run.done:
        facts["message"] = run.message
    if run.error is not None:
        facts["error"] = str(run.error)
    if uri is not None and not uri.startswith("file:"):
        # A path of this machine says nothing to a client on another one.
        facts |= {"path": None, "url": uri}
    return facts


def finished(run: Run, jpeg: bytes, uri: str, preview_bytes: int) -> CallToolResult:
    """The picture, a short text and a link to the full file; the facts in `_meta`.

    Content blocks only: some hosts drop pictures that stand beside structured content.

    Args:
        run: One that has succeeded.
        jpeg: Its picture.
        uri: Where the client finds the full file.
        preview_bytes: The most bytes of the JPEG that is shown.
    """
    assert run.path is not None
    where = str(run.path) if uri.startswith("file:") else uri
    link = ResourceLink(uri=uri, name=run.path.name, mime_type="image/jpeg", size=len(jpeg))
    result = CallToolResult(
        content=[TextContent(text=_text(run, where)), link], _meta={FACTS: facts_of(run, uri)}
    )
    # What a long prompt takes in the facts, the preview gives; base64 makes four of three bytes.
    room = (RESULT_CHARACTERS - len(result.model_dump_json(by_alias=True))) * 3 // 4
    most = min(preview_bytes, room)
    shown = run.image.shown if run.image else None
    if shown is None or len(shown) > most:
        shown = preview(jpeg, most)
    data = base64.b64encode(shown).decode("ascii")
    result.content.insert(0, ImageContent(data=data, mime_type="image/jpeg"))
    return result


def unfinished(run: Run, tool: str) -> CallToolResult:
    """What a run is at that has not ended, and the tool that waits for it."""
    text = f"Not finished yet: {run.message}. Call {tool} with id {run.id} to wait for the picture."
    notes = [f"Note: {note}" for note in run.notes]
    content = TextContent(text="\n".join([text, *notes]))
    return CallToolResult(content=[content], _meta={FACTS: facts_of(run, None)})


def _text(run: Run, where: str) -> str:
    facts = run.parameters
    lines = [
        where,
        f"{facts.width}x{facts.height}, seed {facts.seed}, steps {facts.steps}, "
        f"guidance {facts.guidance:g}, model {facts.model}, {run.duration_ms / 1000:.2f} s",
        *(f"Note: {note}" for note in run.notes),
    ]
    return "\n".join(lines)
