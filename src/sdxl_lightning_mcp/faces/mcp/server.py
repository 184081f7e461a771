"""The MCP server over a runner, for any transport."""

import math
from importlib.metadata import version
from typing import Any

from mcp.server.lowlevel import Server

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces.mcp import viewer
from sdxl_lightning_mcp.faces.mcp.completion import Completions
from sdxl_lightning_mcp.faces.mcp.icon import icons
from sdxl_lightning_mcp.faces.mcp.prompts import Prompts
from sdxl_lightning_mcp.faces.mcp.resources import RUNS, Resources
from sdxl_lightning_mcp.faces.mcp.result import Locate, on_this_machine
from sdxl_lightning_mcp.faces.mcp.runs import OwnerOf, Runs, everyone
from sdxl_lightning_mcp.faces.mcp.skills import Skill
from sdxl_lightning_mcp.faces.mcp.tools import TOOL, WAIT, Tools
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.runners.base import Runner

INSTRUCTIONS = (
    "{TOOL} draws a picture from a prompt on this machine and answers with a preview and "
    "the path of the full JPEG file; tell the person the path. The result names the seed: the same "
    "arguments and seed draw the same picture again. Where it answers with a run's id instead, "
    "{WAIT} waits for the picture. Earlier pictures: {RUNS}. "
    "How to use it well, read before the first picture: {skill}"
)


def build(
    runner: Runner,
    model: Model,
    preview_bytes: int,
    wait_seconds: float = math.inf,
    *,
    record: Record | None = None,
    locate: Locate = on_this_machine,
    owner_of: OwnerOf = everyone,
    region: str | None = None,
) -> Server[Any]:
    """The MCP server over a runner, for any transport.

    Args:
        runner: Where runs are carried out.
        model: The model that is served; its limits and defaults are the tool's schema.
        preview_bytes: The most bytes of the JPEG that a result carries.
        wait_seconds: After so long a call answers with the run's id instead of its picture.
        record: Where runs are found that have ended; without one only those under way are.
        locate: Where the client of a request finds the full file of a finished run.
        owner_of: Whose runs the client of a request makes and sees; None sees all.
        region: Where this server stands, if others stand elsewhere.
    """
    runs, skill = Runs(runner, record, owner_of, region), Skill()
    tools = Tools(runs, model, preview_bytes, wait_seconds, locate)
    resources = Resources(runs, model, skill, locate)
    prompts = Prompts(runs, skill)
    server: Server[Any] = Server(
        "sdxl-lightning-mcp",
        version=version("sdxl-lightning-mcp"),
        title="SDXL-Lightning",
        icons=icons(),
        instructions=INSTRUCTIONS.format(TOOL=TOOL, WAIT=WAIT, RUNS=RUNS, skill=skill.uri),
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=resources.list,
        on_list_resource_templates=resources.list_templates,
        on_read_resource=resources.read,
        on_list_prompts=prompts.list,
        on_get_prompt=prompts.get,
        on_completion=Completions(runs).complete,
    )
    skill.serve(server)
    server.extensions[viewer.EXTENSION] = {}
    return server
