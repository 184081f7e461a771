"""The tools: what they take, and how a call becomes a run and its answer."""

import difflib
from collections.abc import Awaitable, Callable
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
from sdxl_lightning_mcp.errors import InvalidRequestError, Problem, SdxlLightningError
from sdxl_lightning_mcp.faces.mcp import viewer
from sdxl_lightning_mcp.faces.mcp.icon import icons
from sdxl_lightning_mcp.faces.mcp.result import Context, Locate, finished, unfinished
from sdxl_lightning_mcp.faces.mcp.runs import Runs, jpeg_of
from sdxl_lightning_mcp.ids import new_run_id
from sdxl_lightning_mcp.request import read_request, request_schema, resolve
from sdxl_lightning_mcp.run import Origin, Run
from sdxl_lightning_mcp.selection import on_disk

TOOL, WAIT = "generate_image", "get_image"
WATCH_SECONDS = 0.5
Call = Callable[[Context, dict[str, Any]], Awaitable[Run]]


@dataclass(frozen=True)
class Tools:
    """The tools over the runs of one runner, for one served model."""

    runs: Runs
    model: Model
    preview_bytes: int
    wait_seconds: float
    locate: Locate

    async def list(self, _: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        """Answers `tools/list`."""
        return ListToolsResult(tools=[_generate_image(self.model), _get_image(self.model)])

    async def call(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        """Answers `tools/call`; what an agent can correct is a result that says how."""
        calls: dict[str, Call] = {TOOL: self._generate, WAIT: self._get}
        if params.name not in calls:
            known = ", ".join(calls)
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}; there are: {known}")
        try:
            run = await calls[params.name](context, params.arguments or {})
            if not run.done:
                return unfinished(run, WAIT)
            if run.error is not None:
                raise run.error
            jpeg, uri = await jpeg_of(run), self.locate(context, run)
        except SdxlLightningError as error:
            return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
        return await anyio.to_thread.run_sync(finished, run, jpeg, uri, self.preview_bytes)

    async def _generate(self, context: Context, arguments: dict[str, Any]) -> Run:
        """A run from arguments until it ends or the wait is over; stopped when the call is."""
        request = read_request(arguments, self.model)
        # What is here may have changed since the start: another file may have been pulled.
        parameters, notes = resolve(request, await anyio.to_thread.run_sync(on_disk, self.model))
        runner = self.runs.runner
        origin = Origin(owner=self.runs.owner_of(context))
        run = Run(parameters, [*notes], origin, new_run_id(self.runs.region))
        await runner.submit_all([run])
        try:
            await self._wait(context, run)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await runner.cancel(run)
            raise
        return run

    async def _get(self, context: Context, arguments: dict[str, Any]) -> Run:
        """A run by its id, once it has ended or the wait is over; giving up does not stop it."""
        for name in arguments:
            if name != "id":
                close = tuple(difflib.get_close_matches(name, ["id"], n=1))
                raise InvalidRequestError(Problem(name, "an unknown field", "id", close))
        run = await self.runs.find(context, arguments.get("id"))
        if not run.done and self.runs.runner.find(run.id) is None:
            return await self._watch(context, run)
        await self._wait(context, run)
        return run

    async def _watch(self, context: Context, run: Run) -> Run:
        """As `_wait`, for a run of another process, of which only the record tells."""
        with anyio.move_on_after(self.wait_seconds):
            while not run.done:
                await anyio.sleep(WATCH_SECONDS)
                run = await self.runs.find(context, run.id)
        return run

    async def _wait(self, context: Context, run: Run) -> None:
        """Tells the caller how the run goes on, until it has ended or the wait is over."""
        told = -1.0
        with anyio.move_on_after(self.wait_seconds):
            async for progress in run.updates():
                # The protocol wants progress that only grows, also while waiting or anew.
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
        WAIT: (
            f"Waits for the picture of a run and answers as {TOOL} does; also shows an earlier "
            f"picture again. For when {TOOL} answered with a run's id instead of a picture."
        ),
    }


def _generate_image(model: Model) -> Tool:
    return Tool(
        name=TOOL,
        title="Generate image",
        description=descriptions(model)[TOOL],
        input_schema=request_schema(model),
        icons=icons(),
        _meta=viewer.TOOL_META,
        annotations=ToolAnnotations(
            title="Generate image",
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
    )


def _get_image(model: Model) -> Tool:
    run_id = {"type": "string", "description": "The run's id, as it was told."}
    return Tool(
        name=WAIT,
        title="Get image",
        description=descriptions(model)[WAIT],
        input_schema={
            "type": "object",
            "properties": {"id": run_id},
            "required": ["id"],
            "additionalProperties": False,
        },
        annotations=ToolAnnotations(title="Get image", read_only_hint=True, open_world_hint=False),
    )
