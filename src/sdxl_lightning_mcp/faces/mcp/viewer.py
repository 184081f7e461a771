"""The MCP App: a page that shows a picture where hosts show pages, and asks for the next one."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from mcp_types import Resource

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces.mcp.result import Context

EXTENSION = "io.modelcontextprotocol/ui"
URI = "ui://sdxl-lightning/viewer.html"
MIME_TYPE = "text/html;profile=mcp-app"
# What the tools say of it: https://github.com/modelcontextprotocol/ext-apps.
TOOL_META: dict[str, Any] = {"ui": {"resourceUri": URI}}
_SIZES = "/* sizes */ []"


def resource() -> Resource:
    """The page as a resource. It asks for no network, and so for no exception from the host."""
    return Resource(
        uri=URI,
        name="viewer",
        title="Picture viewer",
        mime_type=MIME_TYPE,
        _meta={"ui": {"prefersBorder": False}},
    )


def html(model: Model) -> str:
    """The page, with the sizes that the model draws best."""
    sizes = json.dumps([f"{width}x{height}" for width, height in model.sizes])
    return _template().replace(_SIZES, sizes)


def is_shown_by(context: Context) -> bool:
    """Whether the client of a request says that it shows such pages."""
    capabilities = context.session.client_capabilities
    offered = (capabilities.extensions or {}).get(EXTENSION) if capabilities else None
    return offered is not None and MIME_TYPE in offered.get("mimeTypes", [MIME_TYPE])


@cache
def _template() -> str:
    return Path(__file__).with_name("viewer.html").read_text("utf-8")
