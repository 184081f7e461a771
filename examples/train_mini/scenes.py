"""The renderer: draws a specification and its free variables at any size.

The free variables are a grid `free[channel, row, column]` (see `free_shape`), each uniform on
(0, 1). Each belongs to one square of 128 x 128 drawing units, and whatever it moves stands in or
above that square: `coupling.py` writes it into the latent noise of the same place, so the network
finds the cause of a thing where the thing is.
"""

from __future__ import annotations

import numpy as np
from city import City
from drawing import PALETTE, Canvas, Color, Size, draw_object, mix, shade
from nature import Nature
from scenery import SQUARE
from specs import ObjectSpec, PlaceSpec, Spec

ROOM = 768  # units that the largest object needs


def render(spec: Spec, free: np.ndarray, size: Size, scale: float = 1.0) -> np.ndarray:
    """Draw a picture of (width, height) units: uint8, `scale` pixels for each unit."""
    canvas = Canvas(size, scale)
    if isinstance(spec, PlaceSpec):
        _Place(canvas, spec, free).draw()
    else:
        _draw_backdrop(canvas, PALETTE[spec.background], free)
        _draw_one(canvas, spec)
    return canvas.to_array()


def _draw_backdrop(canvas: Canvas, color: Color, free: np.ndarray) -> None:
    """Fill the canvas, with faint spots whose sizes are left open: no two pictures are the same."""
    canvas.gradient(0, canvas.height, shade(color, 1.05), shade(color, 0.92))
    spot = mix(color, (0, 0, 0) if sum(color) > 600 else (255, 255, 255), 0.05)
    _, rows, columns = free.shape
    for row in range(rows):
        for column in range(row % 2, columns, 2):
            radius = 8 + 40 * free[0, row, column]
            canvas.disc(SQUARE * (column + 0.5), SQUARE * (row + 0.5), radius, spot)


def _draw_one(canvas: Canvas, spec: ObjectSpec) -> None:
    part = {
        "left": (0.283, 0.5),
        "right": (0.717, 0.5),
        "top": (0.5, 0.283),
        "bottom": (0.5, 0.717),
    }
    x, y = part.get(spec.side, (0.5, 0.5))
    radius = {"small": 140, "": 260, "big": 370}[spec.size]
    if spec.side:
        radius = 190
    # It keeps its size where there is room for the largest one, as what stands in places does.
    radius *= min(1.0, min(canvas.width, canvas.height) / ROOM)
    behind = shade(PALETTE[spec.background], 0.985)
    place = (x * canvas.width, y * canvas.height)
    draw_object(canvas, spec.kind, *place, radius, PALETTE[spec.color], behind)


class _Place(City, Nature):
    """Draws one landscape or city."""

    def draw_place(self) -> None:
        """Draw what stands at the place."""
        getattr(self, f"draw_{self.spec.place}")()
