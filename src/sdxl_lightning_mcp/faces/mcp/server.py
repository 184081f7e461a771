"""The MCP server over a runner, for any transport."""

from importlib.metadata import version
from typing import Any

from mcp.server.lowlevel import Server

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces.mcp.icon import icons
from sdxl_lightning_mcp.faces.mcp.resources import SKILL_URI, Resources
from sdxl_lightning_mcp.faces.mcp.result import Locate, on_this_machine
from sdxl_lightning_mcp.faces.mcp.tools import TOOL, Tools
from sdxl_lightning_mcp.runners.base import Runner

INSTRUCTIONS = (
    f"{TOOL} draws a picture from a prompt on this machine and answers with a preview and "
    "the path of the full JPEG file; tell the person the path. The result names the seed: the same "
    f"arguments and seed draw the same picture again. How to use it well: {SKILL_URI}"
)


def build(
    runner: Runner, model: Model, preview_bytes: int, *, locate: Locate = on_this_machine
) -> Server[Any]:
    """The MCP server over a runner, for any transport.

    Args:
        runner: Where runs are carried out.
        model: The model that is served; its limits and defaults are the tool's schema.
        preview_bytes: The most bytes of the JPEG that a result carries.
        locate: Where the client of a request finds the full file of a finished run.
    """
    tools = Tools(runner, model, preview_bytes, locate)
    resources = Resources(model)
    return Server(
        "sdxl-lightning-mcp",
        version=version("sdxl-lightning-mcp"),
        title="SDXL-Lightning",
        icons=icons(),
        instructions=INSTRUCTIONS,
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=resources.list,
        on_list_resource_templates=resources.list_templates,
        on_read_resource=resources.read,
    )
