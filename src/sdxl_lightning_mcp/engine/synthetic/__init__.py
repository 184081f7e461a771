"""Models in the format of SDXL base's repository, at any width, with random numbers."""

from sdxl_lightning_mcp.engine.synthetic.files import write_base
from sdxl_lightning_mcp.engine.synthetic.scale import REAL, SMALL

__all__ = ["REAL", "SMALL", "write_base"]
