"""The MCP face: one tool, and what an agent may want to read before using it."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import anyio
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SdxlLightningError
from sdxl_lightning_mcp.faces import discovery
from sdxl_lightning_mcp.image import preview
from sdxl_lightning_mcp.request import read_request, request_schema, resolve
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.selection import on_disk

TOOL = "generate_image"
FACTS = "sdxl-lightning-mcp/run"
# Claude's limit on a tool's result is about 150,000; the envelope around it takes some.
RESULT_CHARACTERS = 149_000
SKILL_URI = "skill://sdxl-lightning/SKILL.md"
INSTRUCTIONS = (
    "generate_image draws a picture from a prompt on this machine and answers with a preview and "
    "the path of the full JPEG file; tell the person the path. The result names the seed: the same "
    f"arguments and seed draw the same picture again. How to use it well: {SKILL_URI}"
)

Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class _Page:
    """A text an agent can read, made when it is asked for."""

    resource: Resource
    text: Callable[[], str]


def build(runner: Runner, model: Model, preview_bytes: int) -> Server[Any]:
    """The MCP server over a runner, for any transport.

    Args:
        runner: Where runs are carried out.
        model: The model that is served; its limits and defaults are the tool's schema.
        preview_bytes: The most bytes of the JPEG that a result carries.
    """
    tool = _tool(model)
    pages = _pages(model)

    async def list_tools(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[tool])

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        if params.name != TOOL:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}; there is: {TOOL}")
        try:
            run = await _generate(context, runner, model, params.arguments or {})
            return await anyio.to_thread.run_sync(_result, run, preview_bytes)
        except SdxlLightningError as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)

    async def list_resources(_: Context, __: PaginatedRequestParams | None) -> ListResourcesResult:
        return ListResourcesResult(resources=[page.resource for page in pages.values()])

    async def list_templates(
        _: Context, __: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=[])

    async def read_resource(_: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        page = pages.get(str(params.uri))
        if page is None:
            raise MCPError(
                INVALID_PARAMS, f"Unknown resource: {params.uri}; there are: {', '.join(pages)}"
            )
        contents = TextResourceContents(
            uri=params.uri, mime_type=page.resource.mime_type, text=page.text()
        )
        return ReadResourceResult(contents=[contents])

    return Server(
        "sdxl-lightning-mcp",
        version=version("sdxl-lightning-mcp"),
        title="SDXL-Lightning",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


def _tool(model: Model) -> Tool:
    return Tool(
        name=TOOL,
        title="Generate image",
        description=(
            f"Draws a picture from a prompt with {model.title} on this machine. "
            "Answers with a preview you can see, the path of the full JPEG file, and the seed. "
            f"{model.summary}"
        ),
        input_schema=request_schema(model),
        annotations=ToolAnnotations(
            title="Generate image",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
    )


def _pages(model: Model) -> dict[str, _Page]:
    def page(uri: str, name: str, title: str, mime_type: str, text: Callable[[], str]) -> _Page:
        return _Page(Resource(uri=uri, name=name, title=title, mime_type=mime_type), text)

    def spec() -> str:
        return json.dumps(discovery.model_spec(model), indent=2)

    pages = (
        page(
            f"sdxl-lightning://models/{model.slug}",
            "model-spec",
            f"Model spec of {model.title}",
            "application/json",
            spec,
        ),
        page("sdxl-lightning://llms.txt", "llms.txt", "llms.txt", "text/plain", discovery.llms_txt),
        page(
            SKILL_URI, "sdxl-lightning", "How to use this server", "text/markdown", discovery.skill
        ),
    )
    return {page.resource.uri: page for page in pages}


async def _generate(
    context: Context, runner: Runner, model: Model, arguments: dict[str, Any]
) -> Run:
    """One run from arguments to its end, telling its progress; stopped when the call is."""
    request = read_request(arguments, model)
    # What is here may have changed since the start: another file may have been pulled.
    parameters, notes = resolve(request, await anyio.to_thread.run_sync(on_disk, model))
    run = await runner.submit(parameters, notes)
    try:
        told = -1.0
        async for progress in run.updates():
            # The protocol wants progress that only grows, also while waiting or beginning anew.
            told = max(progress.done, told + 0.001)
            await context.session.report_progress(told, progress.total, progress.message)
        await run.finished()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await runner.cancel(run)
        raise
    return run


def _result(run: Run, preview_bytes: int) -> CallToolResult:
    """Content blocks only: some hosts drop pictures that stand beside structured content."""
    assert run.image is not None
    assert run.path is not None
    result = CallToolResult(
        content=[
            TextContent(text=_text(run)),
            ResourceLink(
                uri=run.path.as_uri(),
                name=run.path.name,
                mime_type="image/jpeg",
                size=len(run.image.jpeg),
            ),
        ],
        _meta={FACTS: run.facts},
    )
    # What a long prompt takes in the facts, the preview gives; base64 makes four of three bytes.
    room = (RESULT_CHARACTERS - len(result.model_dump_json(by_alias=True))) * 3 // 4
    shown = base64.b64encode(preview(run.image.jpeg, min(preview_bytes, room))).decode("ascii")
    result.content.insert(0, ImageContent(data=shown, mime_type="image/jpeg"))
    return result


def _text(run: Run) -> str:
    facts = run.parameters
    lines = [
        str(run.path),
        f"{facts.width}x{facts.height}, seed {facts.seed}, steps {facts.steps}, "
        f"guidance {facts.guidance:g}, model {facts.model}, {run.duration_ms / 1000:.2f} s",
        *(f"Note: {note}" for note in run.notes),
    ]
    return "\n".join(lines)
