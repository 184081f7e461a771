"""A small canvas and the vector shapes the training pictures are made of.

Everything is drawn in units whatever the size of the bitmap, so that one scene can be rendered at a
quarter of a pixel a unit (to learn layout from) and at one pixel a unit (to learn detail from).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
Point = tuple[float, float]

Size = tuple[int, int]  # width and height, in drawing units

UNITS = 1024  # the side of a picture of the usual size; a unit is a pixel of the largest rendering
LAMP_SCALE = 1 / 16  # px a unit, before supersampling
SUPERSAMPLING = 2  # bitmaps are drawn twice as large and box-filtered, for smooth edges

PALETTE: dict[str, Color] = {
    "red": (222, 42, 48),
    "green": (48, 168, 74),
    "blue": (44, 92, 224),
    "yellow": (252, 212, 48),
    "orange": (246, 138, 32),
    "purple": (142, 62, 196),
    "pink": (246, 126, 184),
    "white": (246, 246, 246),
    "black": (24, 24, 30),
    "cyan": (40, 202, 216),
    "brown": (128, 78, 42),
    "gray": (136, 140, 148),
}


def mix(first: Color, second: Color, share: float) -> Color:
    """Blend two colours; `share` is the part of the second one."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def shade(color: Color, factor: float) -> Color:
    """Make a colour darker (factor below 1) or lighter (above 1)."""
    return tuple(round(min(255.0, channel * factor)) for channel in color)


class Canvas:
    """A bitmap that is drawn on in units, whatever its number of pixels."""

    def __init__(self, size: Size, scale: float) -> None:
        """Open a black canvas of so many units that will yield `scale` pixels for each."""
        self.width, self.height = size
        self.scale = scale * SUPERSAMPLING
        self._adopt(Image.new("RGB", (round(size[0] * self.scale), round(size[1] * self.scale))))

    def for_lamps(self) -> Canvas:
        """Open a black canvas for `add_light`: as large, and coarse, since it will be blurred."""
        return Canvas((self.width, self.height), LAMP_SCALE)

    def _adopt(self, image: Image.Image) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)

    def _points(self, points: Iterable[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def gradient(self, top: float, bottom: float, first: Color, last: Color) -> None:
        """Fill the rows from `top` to `bottom` with a vertical gradient."""
        start, stop = round(top * self.scale), round(bottom * self.scale)
        share = np.linspace(0.0, 1.0, max(stop - start, 1))[:, None]
        rows = np.asarray(first) * (1 - share) + np.asarray(last) * share
        across = self.image.size[0]
        band = np.broadcast_to(rows[:, None, :], (len(rows), across, 3)).astype(np.uint8)
        self.image.paste(Image.fromarray(band), (0, start))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """Draw a filled rectangle; one that is thinner than a pixel is left out."""
        left, top, right, bottom = (round(v * self.scale) for v in (x0, y0, x1, y1))
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=color)

    def pill(self, x0: float, y0: float, x1: float, y1: float, radius: float, color: Color) -> None:
        """Draw a filled rectangle with round corners."""
        (left, top), (right, bottom) = self._points([(x0, y0), (x1, y1)])
        box = (left, top, right, bottom)
        self._draw.rounded_rectangle(box, radius=radius * self.scale, fill=color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """Draw a filled ellipse around (x, y)."""
        (left, top), (right, bottom) = self._points([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((left, top, right, bottom), fill=color)

    def disc(self, x: float, y: float, radius: float, color: Color) -> None:
        """Draw a filled circle around (x, y)."""
        self.ellipse(x, y, radius, radius, color)

    def arch(self, x: float, y: float, radius: float, thickness: float, color: Color) -> None:
        """Draw the upper half of a ring around (x, y)."""
        (left, top), (right, bottom) = self._points(
            [(x - radius, y - radius), (x + radius, y + radius)]
        )
        box = (left, top, right, bottom)
        self._draw.arc(box, 180, 360, fill=color, width=round(thickness * self.scale))

    def polygon(self, points: Iterable[Point], color: Color) -> None:
        """Draw a filled polygon."""
        self._draw.polygon(self._points(points), fill=color)

    def land(self, heights: Sequence[Point], color: Color) -> None:
        """Fill everything below a line of points that goes from left to right."""
        left, right = heights[0][0], heights[-1][0]
        self.polygon([(left, self.height), *heights, (right, self.height)], color)

    def add_light(self, lamps: Canvas, radius: float, strength: float = 0.9) -> None:
        """Add the blurred picture of some lamps (a glow); `radius` is in drawing units."""
        blur = ImageFilter.GaussianBlur(radius * lamps.scale)
        light = lamps.image.filter(blur).resize(self.image.size, Image.Resampling.BILINEAR)
        light = np.asarray(light, np.float32)
        lit = np.asarray(self.image, np.float32) + light * strength
        self._adopt(Image.fromarray(np.minimum(lit, 255.0).astype(np.uint8)))

    def veil(self, color: Color, middle: float, spread: float, strength: float) -> None:
        """Blend in a colour, most in the row at a share `middle` of the height."""
        rows = np.linspace(0.0, 1.0, self.image.size[1], dtype=np.float32)[:, None, None]
        share = strength * np.exp(-(((rows - middle) / spread) ** 2))
        veiled = np.asarray(self.image, np.float32) * (1 - share) + np.float32(color) * share
        self._adopt(Image.fromarray(veiled.astype(np.uint8)))

    def to_array(self) -> np.ndarray:
        """Return the finished picture: uint8 (rows, columns, 3)."""
        return np.asarray(self.image.reduce(SUPERSAMPLING))


def star_points(x: float, y: float, radius: float) -> list[Point]:
    """Return the ten corners of a five-pointed star."""
    corners = []
    for k in range(10):
        reach = radius if k % 2 == 0 else radius * 0.44
        angle = -math.pi / 2 + k * math.pi / 5
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def heart_points(x: float, y: float, radius: float) -> list[Point]:
    """Return the outline of a heart, with its notch at the top."""
    outline = []
    for k in range(60):
        a = 2 * math.pi * k / 60
        height = 13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)
        outline.append((x + radius * math.sin(a) ** 3, y - radius * (height / 16 + 0.12)))
    return outline


def draw_house(
    canvas: Canvas,
    x: float,
    ground: float,
    radius: float,
    color: Color,
    light: float,
    window: Color,
) -> None:
    """Draw a house that is 2 `radius` wide and stands on `ground`."""
    eaves, ridge = ground - radius * 1.05, ground - radius * 1.85
    canvas.rectangle(x - radius * 0.8, eaves, x + radius * 0.8, ground, shade(color, light))
    roof = [(x - radius, eaves), (x, ridge), (x + radius, eaves)]
    canvas.polygon(roof, shade(color, light * 0.55))
    door = shade((92, 56, 36), light)
    canvas.rectangle(x - radius * 0.17, ground - radius * 0.58, x + radius * 0.17, ground, door)
    for side in (-0.5, 0.5):
        left = x + (side - 0.15) * radius
        top = ground - radius * 0.84
        canvas.rectangle(left, top, left + radius * 0.3, top + radius * 0.32, window)


def draw_leaf_tree(
    canvas: Canvas, x: float, ground: float, height: float, leaves: Color, light: float
) -> None:
    """Draw a tree with a round crown."""
    trunk = shade((112, 72, 44), light)
    canvas.rectangle(x - height * 0.06, ground - height * 0.4, x + height * 0.06, ground, trunk)
    for dx, dy, size in ((-0.2, 0.5, 0.22), (0.2, 0.5, 0.22), (0.0, 0.7, 0.28)):
        canvas.disc(x + dx * height, ground - dy * height, size * height, leaves)


def draw_pine(
    canvas: Canvas,
    x: float,
    ground: float,
    height: float,
    leaves: Color,
    light: float,
    snow: Color | None = None,
) -> None:
    """Draw a pine of three tiers, with snow on the tiers where a colour for it is given."""
    trunk = shade((104, 68, 44), light)
    canvas.rectangle(x - height * 0.05, ground - height * 0.3, x + height * 0.05, ground, trunk)
    for tier in range(3):
        half = height * (0.33 - 0.07 * tier)
        base = ground - height * (0.18 + 0.24 * tier)
        tip = base - height * 0.38
        color = shade(leaves, 0.85 + 0.12 * tier)
        canvas.polygon([(x - half, base), (x + half, base), (x, tip)], color)
        if snow is not None:
            cap = base - height * 0.2
            canvas.polygon([(x - half * 0.5, cap), (x + half * 0.5, cap), (x, tip)], snow)


def draw_car(canvas: Canvas, x: float, ground: float, radius: float, color: Color) -> None:
    """Draw a car seen from the side."""
    cabin = [(-0.64, -0.45), (-0.36, -1.0), (0.36, -1.0), (0.66, -0.45)]
    canvas.polygon([(x + a * radius, ground + b * radius) for a, b in cabin], shade(color, 0.72))
    glass = [(-0.46, -0.5), (-0.27, -0.87), (0.27, -0.87), (0.48, -0.5)]
    canvas.polygon([(x + a * radius, ground + b * radius) for a, b in glass], (192, 226, 240))
    canvas.pill(x - radius, ground - radius * 0.52, x + radius, ground, radius * 0.14, color)
    for side in (-0.55, 0.55):
        canvas.disc(x + side * radius, ground, radius * 0.25, (22, 22, 26))
        canvas.disc(x + side * radius, ground, radius * 0.11, (176, 176, 176))


def draw_cat(canvas: Canvas, x: float, y: float, radius: float, color: Color) -> None:
    """Draw the face of a cat."""
    for side in (-1, 1):
        ear = [(0.82, -1.08), (0.84, -0.05), (0.1, -0.62)]
        canvas.polygon([(x + side * a * radius, y + b * radius) for a, b in ear], color)
        inner = [(0.72, -0.86), (0.7, -0.45), (0.4, -0.6)]
        canvas.polygon([(x + side * a * radius, y + b * radius) for a, b in inner], (240, 142, 162))
    canvas.ellipse(x, y + radius * 0.03, radius * 0.9, radius * 0.8, color)
    iris = (255, 220, 70) if color == PALETTE["green"] else (70, 214, 96)
    for side in (-0.37, 0.37):
        canvas.ellipse(x + side * radius, y - radius * 0.08, radius * 0.2, radius * 0.2, iris)
        pupil = (12, 12, 14)
        canvas.ellipse(x + side * radius, y - radius * 0.08, radius * 0.08, radius * 0.17, pupil)
    nose = [(-0.12, 0.24), (0.12, 0.24), (0.0, 0.4)]
    canvas.polygon([(x + a * radius, y + b * radius) for a, b in nose], (240, 120, 146))


def draw_flower(canvas: Canvas, x: float, y: float, radius: float, color: Color) -> None:
    """Draw a flower of six petals on a stem."""
    stem = (40, 130, 60)
    canvas.rectangle(x - radius * 0.06, y, x + radius * 0.06, y + radius * 1.2, stem)
    centre = y - radius * 0.25
    for k in range(6):
        angle = k * math.pi / 3
        petal = (x + radius * 0.52 * math.cos(angle), centre + radius * 0.52 * math.sin(angle))
        canvas.disc(*petal, radius * 0.36, color)
    heart = (150, 90, 40) if color == PALETTE["yellow"] else (255, 206, 60)
    canvas.disc(x, centre, radius * 0.3, heart)


def draw_object(
    canvas: Canvas, kind: str, x: float, y: float, radius: float, color: Color, behind: Color
) -> None:
    """Draw one of the twelve objects; `behind` fills the hole of a ring."""
    if kind == "circle":
        canvas.disc(x, y, radius, color)
    elif kind == "ring":
        canvas.disc(x, y, radius, color)
        canvas.disc(x, y, radius * 0.52, behind)
    elif kind == "square":
        side = radius * 0.9
        canvas.rectangle(x - side, y - side, x + side, y + side, color)
    elif kind == "triangle":
        base = y + radius * 0.8
        canvas.polygon(
            [(x, y - radius), (x + radius * 1.05, base), (x - radius * 1.05, base)], color
        )
    elif kind == "star":
        canvas.polygon(star_points(x, y + radius * 0.05, radius * 1.15), color)
    elif kind == "heart":
        canvas.polygon(heart_points(x, y, radius), color)
    elif kind == "diamond":
        half, tall = radius * 0.75, radius * 1.1
        canvas.polygon([(x, y - tall), (x + half, y), (x, y + tall), (x - half, y)], color)
    elif kind == "house":
        draw_house(canvas, x, y + radius * 0.95, radius, color, 1.0, (255, 228, 132))
    elif kind == "tree":
        draw_leaf_tree(canvas, x, y + radius, radius * 2, color, 1.0)
    elif kind == "car":
        draw_car(canvas, x, y + radius * 0.45, radius, color)
    elif kind == "cat":
        draw_cat(canvas, x, y, radius, color)
    elif kind == "flower":
        draw_flower(canvas, x, y, radius, color)
    else:
        raise ValueError(f"unknown object: {kind}")
