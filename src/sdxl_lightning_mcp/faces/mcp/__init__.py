"""The MCP face: tools that draw, and what an agent may want to read, on any transport."""

from sdxl_lightning_mcp.faces.mcp.eras import serve
from sdxl_lightning_mcp.faces.mcp.server import build
from sdxl_lightning_mcp.faces.mcp.tools import TOOL

__all__ = ["TOOL", "build", "serve"]
