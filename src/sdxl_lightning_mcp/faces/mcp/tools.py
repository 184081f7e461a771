"""The tools: what they take, and how a call becomes a run and its answer."""

from dataclasses import dataclass
from typing import Any

import anyio
from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SdxlLightningError
from sdxl_lightning_mcp.faces.mcp.icon import icons
from sdxl_lightning_mcp.faces.mcp.result import Context, Locate, answer
from sdxl_lightning_mcp.request import read_request, request_schema, resolve
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.selection import on_disk

TOOL = "generate_image"


@dataclass(frozen=True)
class Tools:
    """The tools over a runner, for one served model."""

    runner: Runner
    model: Model
    preview_bytes: int
    locate: Locate

    async def list(self, _: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        """Answers `tools/list`."""
        return ListToolsResult(tools=[_generate_image(self.model)])

    async def call(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        """Answers `tools/call`; what an agent can correct is a result that says how."""
        if params.name != TOOL:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}; there is: {TOOL}")
        try:
            run = await self._generate(context, params.arguments or {})
        except SdxlLightningError as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
        uri = self.locate(context, run)
        return await anyio.to_thread.run_sync(answer, run, uri, self.preview_bytes)

    async def _generate(self, context: Context, arguments: dict[str, Any]) -> Run:
        """One run from arguments to its end, telling its progress; stopped when the call is."""
        request = read_request(arguments, self.model)
        # What is here may have changed since the start: another file may have been pulled.
        model = await anyio.to_thread.run_sync(on_disk, self.model)
        run = await self.runner.submit(*resolve(request, model))
        try:
            await _tell_progress(context, run)
            await run.finished()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.runner.cancel(run)
            raise
        return run


async def _tell_progress(context: Context, run: Run) -> None:
    """Tells the caller how the run goes on, until it has ended."""
    told = -1.0
    async for progress in run.updates():
        # The protocol wants progress that only grows, also while waiting or beginning anew.
        told = max(progress.done, told + 0.001)
        await context.session.report_progress(told, progress.total, progress.message)


def descriptions(model: Model) -> dict[str, str]:
    """What each tool does, in the words that agents read."""
    return {
        TOOL: (
            f"Draws a picture from a prompt with {model.title} on this machine. "
            "Answers with a preview you can see, the path of the full JPEG file, and the seed. "
            f"{model.summary}"
        ),
    }


def _generate_image(model: Model) -> Tool:
    return Tool(
        name=TOOL,
        title="Generate image",
        description=descriptions(model)[TOOL],
        input_schema=request_schema(model),
        icons=icons(),
        annotations=ToolAnnotations(
            title="Generate image",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
    )
