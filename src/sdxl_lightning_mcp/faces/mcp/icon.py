"""The picture that hosts show beside our name."""

import base64
from pathlib import Path

from mcp_types import Icon


def icons() -> list[Icon]:
    """One small PNG, inside its own address: nothing is fetched to show it."""
    png = base64.b64encode(Path(__file__).with_name("icon.png").read_bytes()).decode("ascii")
    return [Icon(src=f"data:image/png;base64,{png}", mime_type="image/png", sizes=["32x32"])]
