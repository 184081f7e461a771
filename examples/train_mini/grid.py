"""Draws a grid of pictures with their prompts underneath."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 6
LINE = 14  # px


def draw_grid(
    pictures: Sequence[np.ndarray | Image.Image], labels: Sequence[str], side: int = 256
) -> Image.Image:
    """Lay pictures out in rows of six, each scaled to `side` px and with its label under it."""
    rows = -(-len(pictures) // COLUMNS)
    height = side + 2 * LINE + 6
    sheet = Image.new("RGB", (COLUMNS * side, rows * height), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=LINE - 3)
    for k, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(picture)
        x, y = k % COLUMNS * side, k // COLUMNS * height
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y))
        lines = textwrap.wrap(label, width=side // 6)[:2]
        for n, line in enumerate(lines):
            pen.text((x + 4, y + side + 2 + n * LINE), line, fill=(20, 20, 20), font=font)
    return sheet
