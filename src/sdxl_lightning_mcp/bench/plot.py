"""Pictures a second and latency by number of clients, as a PNG."""

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sdxl_lightning_mcp.bench.figures import Load

WIDTH, HEIGHT = 1200, 520
# Drawn larger and made small again, which smooths the lines.
ZOOM = 3
INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
COLOURS = ("#0b6e99", "#d9730d", "#6b7280", "#0f7b6c")
Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line of a panel: its values by number of clients."""

    colour: str
    points: tuple[tuple[int, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over the same axes, in a box of the page: left, top, right, bottom in pixels."""

    title: str
    box: tuple[int, int, int, int]
    curves: Sequence[Curve]

    @property
    def clients(self) -> list[int]:
        """The numbers of clients that any curve has, rising."""
        return sorted({count for curve in self.curves for count, _ in curve.points})

    @property
    def ticks(self) -> list[float]:
        """Round numbers from zero to above the highest value."""
        return nice_ticks(max(value for curve in self.curves for _, value in curve.points))

    def place(self, clients: int, value: float) -> Point:
        """Where a value lies on the page; numbers of clients stand at equal distances."""
        left, top, right, bottom = self.box
        across = (self.clients.index(clients) + 0.5) / len(self.clients)
        return left + (right - left) * across, bottom - (bottom - top) * value / self.ticks[-1]


def plot(loads: Sequence[Load], title: str) -> bytes:
    """A PNG of the loads that have a number of clients; a colour for each way."""
    loads = [load for load in loads if load.clients is not None]
    ways = list(dict.fromkeys(load.way for load in loads))
    colours = dict(zip(ways, COLOURS, strict=False))

    def curves(value: Callable[[Load], float], dashed: bool = False) -> list[Curve]:
        return [
            Curve(
                colours[way],
                tuple((load.clients or 0, value(load)) for load in loads if load.way == way),
                dashed,
            )
            for way in ways
        ]

    rates = curves(lambda load: load.pictures_a_second)
    p50 = curves(lambda load: load.percentile(50))
    p95 = curves(lambda load: load.percentile(95), dashed=True)
    panels = (
        Panel("pictures a second", (70, 130, 570, 450), rates),
        Panel("latency, s (p50; dashed: p95)", (670, 130, 1170, 450), [*p50, *p95]),
    )
    page = Image.new("RGB", (WIDTH * ZOOM, HEIGHT * ZOOM), PAPER)
    pen = ImageDraw.Draw(page)
    _write(pen, (70, 30), title, size=20, anchor="lm")
    across = 70
    for way, colour in colours.items():
        _line(pen, [(across, 66), (across + 24, 66)], colour, 3)
        _write(pen, (across + 32, 66), way, anchor="lm")
        across += 60 + 9 * len(way)
    for panel in panels:
        _draw_axes(pen, panel)
        for curve in panel.curves:
            _draw_curve(pen, panel, curve)
    file = io.BytesIO()
    page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(file, "PNG", optimize=True)
    return file.getvalue()


def nice_ticks(highest: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, from zero to `highest` or just above."""
    rough = highest / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [step * index for index in range(math.ceil(round(highest / step, 9)) + 1)]


def _draw_axes(pen: ImageDraw.ImageDraw, panel: Panel) -> None:
    left, top, right, bottom = panel.box
    _write(pen, (left, top - 22), panel.title, anchor="lm")
    for tick in panel.ticks:
        height = panel.place(panel.clients[0], tick)[1]
        _line(pen, [(left, height), (right, height)], FAINT if tick else INK, 1)
        _write(pen, (left - 10, height), f"{tick:g}", anchor="rm")
    for count in panel.clients:
        _write(pen, (panel.place(count, 0)[0], bottom + 18), str(count))
    _write(pen, ((left + right) / 2, bottom + 44), "clients at once")


def _draw_curve(pen: ImageDraw.ImageDraw, panel: Panel, curve: Curve) -> None:
    points = [panel.place(clients, value) for clients, value in curve.points]
    for begin, end in itertools.pairwise(points):
        if not curve.dashed:
            _line(pen, [begin, end], curve.colour, 3)
            continue
        pieces = max(2, round(math.dist(begin, end) / 7))
        for piece in range(0, pieces, 2):
            dash = [_between(begin, end, place / pieces) for place in (piece, piece + 1)]
            _line(pen, dash, curve.colour, 2)
    for x, y in points:
        pen.circle((x * ZOOM, y * ZOOM), (4 if curve.dashed else 5) * ZOOM, curve.colour)


def _between(begin: Point, end: Point, share: float) -> Point:
    return begin[0] + (end[0] - begin[0]) * share, begin[1] + (end[1] - begin[1]) * share


def _line(pen: ImageDraw.ImageDraw, points: Sequence[Point], colour: str, width: int) -> None:
    pen.line([(x * ZOOM, y * ZOOM) for x, y in points], fill=colour, width=width * ZOOM)


def _write(
    pen: ImageDraw.ImageDraw, place: Point, text: str, size: int = 16, anchor: str = "mm"
) -> None:
    font = ImageFont.load_default(size * ZOOM)
    pen.text((place[0] * ZOOM, place[1] * ZOOM), text, fill=INK, font=font, anchor=anchor)
