"""Our server as the official conformance suite wants it: its fixtures' names for our own parts.

The suite calls tools, resources and prompts of certain names. Here each is one of ours under that
name, so that what is tested is what we ship; what we have no part for is in `conformance.yml`.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import uvicorn
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    CompleteRequestParams,
    GetPromptRequestParams,
    ReadResourceRequestParams,
)

SMALL = {"prompt": "the sea", "width": 256, "height": 256, "seed": 7}
TOOLS: dict[str, dict[str, Any]] = {
    "test_simple_text": SMALL,
    "test_image_content": SMALL,
    "test_tool_with_progress": SMALL,
    "test_error_handling": {**SMALL, "width": 1001},
}
PROMPT_ARGUMENTS = {"arg1": "subject", "arg2": "style"}


@dataclass(frozen=True)
class Aliases:
    """Sends what is asked of a fixture to the part of ours that stands for it."""

    server: Server[Any]
    run_id: str

    def apply(self) -> None:
        """Puts this before the server's own handlers."""
        handlers = {
            "tools/call": (CallToolRequestParams, self.call_tool),
            "resources/read": (ReadResourceRequestParams, self.read),
            "prompts/get": (GetPromptRequestParams, self.get_prompt),
            "completion/complete": (CompleteRequestParams, self.complete),
        }
        for method, (params_type, rename) in handlers.items():
            entry = self.server.get_request_handler(method)
            assert entry is not None

            async def handle(
                context: Any, params: Any, own: Any = entry.handler, rename: Any = rename
            ) -> Any:
                result = await own(context, rename(params))
                if isinstance(params, ReadResourceRequestParams):
                    for contents in result.contents:
                        contents.uri = params.uri
                return result

            self.server.add_request_handler(method, params_type, handle)

    def call_tool(self, params: CallToolRequestParams) -> CallToolRequestParams:
        arguments = TOOLS.get(params.name)
        if arguments is None:
            return params
        return params.model_copy(update={"name": "generate_image", "arguments": arguments})

    def read(self, params: ReadResourceRequestParams) -> ReadResourceRequestParams:
        run = f"sdxl-lightning://runs/{self.run_id}"
        ours = {
            "test://static-text": "sdxl-lightning://llms.txt",
            "test://static-binary": f"{run}/image",
        }
        return params.model_copy(update={"uri": ours.get(str(params.uri), params.uri)})

    def get_prompt(self, params: GetPromptRequestParams) -> GetPromptRequestParams:
        if params.name == "test_simple_prompt":
            return params.model_copy(update={"name": "picture", "arguments": {"subject": "a fox"}})
        if params.name == "test_prompt_with_arguments":
            given = params.arguments or {}
            named = {PROMPT_ARGUMENTS[name]: value for name, value in given.items()}
            return params.model_copy(update={"name": "picture", "arguments": named})
        return params

    def complete(self, params: CompleteRequestParams) -> CompleteRequestParams:
        if getattr(params.ref, "name", None) != "test_prompt_with_arguments":
            return params
        params = params.model_copy(deep=True)
        params.ref.name = "picture"  # type: ignore[union-attr]
        params.argument.name = PROMPT_ARGUMENTS[params.argument.name]
        return params


@asynccontextmanager
async def served(server: Server[Any]) -> AsyncIterator[str]:
    """Serves over HTTP on a free port of this machine; yields the address."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = server.streamable_http_app()
    web = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(web.serve, [listening])
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            web.should_exit = True
