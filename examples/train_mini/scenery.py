"""What all places share: the sky, the light of the hour, the weather, and water.

Places are drawn for any width and height. What stands in them keeps its size, so that the network
sees the same towers and trees everywhere: a wider picture shows more of them. Only what goes with
the height of the picture (the horizon, the sun, how tall towers and mountains are) goes with it, in
whole latent cells: a window that lies differently in its cell would have to be learnt anew.
"""

from __future__ import annotations

import numpy as np
from codec import CELL
from drawing import UNITS, Canvas, Color, mix, shade
from specs import PlaceSpec

FREE_CHANNELS = 2
SQUARE = 128  # drawing units a side of the square that a free variable belongs to

SKY: dict[str, tuple[Color, Color]] = {  # at the zenith, at the horizon
    "day": ((58, 130, 226), (186, 224, 250)),
    "sunset": ((74, 44, 124), (255, 148, 70)),
    "night": ((7, 9, 36), (38, 46, 108)),
    "neon": ((14, 6, 44), (132, 28, 124)),
}
DAYLIGHT = {"day": 1.0, "sunset": 0.72, "night": 0.42, "neon": 0.42}
HORIZON = {
    "city": 736,
    "mountains": 704,
    "sea": 576,
    "desert": 608,
    "forest": 640,
    "field": 608,
    "village": 672,
}
STARS = (  # x, y, radius; repeated to the right where a picture is wider
    (96, 80, 9), (240, 190, 8), (352, 64, 10), (480, 144, 8), (608, 60, 8), (736, 176, 10),
    (864, 90, 8), (960, 208, 8), (160, 288, 8), (416, 272, 8), (576, 240, 9), (800, 300, 8),
    (40, 200, 7), (304, 352, 7), (688, 352, 7), (928, 352, 7),
)  # fmt: skip
RAINBOW: tuple[Color, ...] = (
    (232, 62, 60), (246, 150, 50), (250, 220, 70), (90, 190, 90), (70, 120, 226), (150, 80, 200),
)  # fmt: skip
AURORA: tuple[Color, ...] = ((30, 150, 96), (24, 128, 128), (70, 60, 150))


def free_shape(width: int, height: int) -> tuple[int, int, int]:
    """Return channels, rows and columns of the free variables of a picture."""
    return FREE_CHANNELS, height // SQUARE, width // SQUARE


class Scenery:
    """A place on a canvas, at an hour and in a weather; subclasses draw what stands there."""

    def __init__(self, canvas: Canvas, spec: PlaceSpec, free: np.ndarray) -> None:
        """Prepare to draw a place, with free variables of the canvas's `free_shape`."""
        self.canvas, self.spec, self.free = canvas, spec, free
        self.width, self.height = canvas.width, canvas.height
        self.tall = self.height / UNITS
        self.columns = -(-self.width // SQUARE)
        self.mood = "neon" if spec.cyberpunk else spec.time
        self.light = DAYLIGHT[self.mood]
        self.zenith, self.haze = SKY[self.mood]
        if spec.rain or (spec.clouds and spec.time == "day" and spec.place == "city"):
            grey = shade((150, 158, 176), self.light)
            self.zenith, self.haze = mix(self.zenith, grey, 0.3), mix(self.haze, grey, 0.3)
        self.horizon = self.down(HORIZON[spec.place])
        self.white = shade((244, 247, 255), self.light * 0.7 + 0.3)
        self.lamp = (206, 228, 240) if spec.time == "day" else (255, 220, 118)

    def free_at(self, x: float, y: float, channel: int = 0) -> float:
        """Return the free variable of the square that holds (x, y), or of the nearest one."""
        _, rows, columns = self.free.shape
        row, column = int(y // SQUARE), int(x // SQUARE)
        return float(
            self.free[channel, max(0, min(rows - 1, row)), max(0, min(columns - 1, column))]
        )

    def lit(self, color: Color, floor: float = 0.2) -> Color:
        """Return a colour as the time of day shows it; `floor` is what stays in the dark."""
        return shade(color, self.light * (1 - floor) + floor)

    def down(self, y: float) -> float:
        """Return where a height of the usual size is in this one, moved by whole latent cells."""
        return y + CELL * round(y * (self.tall - 1) / CELL)

    def across(self, x: float) -> float:
        """Return where a place along the usual width is in this one, moved by whole cells."""
        return x + CELL * round(x * (self.width / UNITS - 1) / CELL)

    def spread(self, step: int, least: int) -> list[float]:
        """Return places across the picture, `step` apart, or closer if `least` are to fit."""
        count = max(least, (self.width - SQUARE // 2) // step)
        step = min(step, self.width // count)
        return [self.width / 2 + step * (k - (count - 1) / 2) for k in range(count)]

    def draw(self) -> None:
        """Draw everything, back to front."""
        self.canvas.gradient(0, self.horizon, self.zenith, self.haze)
        self.canvas.gradient(self.horizon, self.height, self.haze, self.haze)
        self._draw_sky()
        self.draw_place()
        if self.spec.fog:
            self._draw_fog()
        if self.spec.snow or self.spec.rain:
            self._draw_weather()

    def draw_place(self) -> None:
        """Draw everything but sky and weather."""
        raise NotImplementedError

    def _draw_fog(self) -> None:
        color = mix(self.haze, shade((214, 220, 230), 0.35 + 0.65 * self.light), 0.75)
        thickest = (self.horizon - 40) / self.height
        self.canvas.veil(color, thickest, 0.3, 0.75)

    def _draw_weather(self) -> None:
        drop = mix(self.haze, (225, 235, 250), 0.6)
        for k in range(self.columns * -(-self.height // SQUARE)):
            row, column = divmod(k, self.columns)
            if (row + column) % 2:
                continue
            n = column % 8 + 8 * (row % 8)
            x, y = SQUARE * column + 24 + (n * 37) % 80, SQUARE * row + 24 + (n * 53) % 80
            if self.spec.snow:
                self.canvas.disc(x, y, 9 + n % 4, (250, 250, 255))
            else:
                fall = [(x, y), (x + 5, y), (x - 19, y + 84), (x - 24, y + 84)]
                self.canvas.polygon(fall, drop)

    def _draw_sky(self) -> None:
        spec, canvas = self.spec, self.canvas
        if spec.aurora:
            self._draw_aurora()
        if spec.stars:
            for x, y, radius in STARS:
                if y < self.horizon - SQUARE:
                    canvas.disc(x, y, radius, (255, 255, 230))
                    canvas.disc(x + UNITS, y, radius, (255, 255, 230))
        self._draw_sun_or_moon()
        if spec.rainbow:
            self._draw_rainbow()
        if spec.clouds:
            color = mix(self.haze, (255, 255, 255), 0.62)
            for x, y in ((176, 150), (848, 130), (520, 250)):
                x, y = self.across(x), max(80, self.down(y))
                x += 40 * (self.free_at(x, y, 1) - 0.5)
                for dx, size in ((-80, 44), (80, 48), (0, 66)):
                    canvas.ellipse(x + dx, y, size * 1.2, size * 0.8, color)

    def _draw_sun_or_moon(self) -> None:
        spec = self.spec
        moon = spec.time == "night" and not (spec.stars or spec.cyberpunk or spec.rain)
        sunset = spec.time == "sunset" and not spec.rain
        if spec.bare_sky or not (spec.sun or moon or sunset):
            return
        low = {"sea": 60, "desert": 60, "field": 80}.get(spec.place, 0)
        if spec.time == "sunset" and low:
            square, y = 0.4375, self.horizon - low
        else:
            square, y = 0.625, self.down(192.0)
        left = SQUARE * round(square * self.width / SQUARE)
        x = left + SQUARE * self.free_at(left + SQUARE / 2, y, 1)
        self.sun_x = x
        lamps = self.canvas.for_lamps()
        halo = (120, 124, 140) if moon else (230, 170, 90)
        lamps.disc(x, y, 90, halo)
        self.canvas.add_light(lamps, 60)
        disc = {"day": (255, 240, 124), "sunset": (255, 212, 104)}.get(spec.time, (246, 244, 220))
        self.canvas.disc(x, y, 80, disc)

    def _draw_rainbow(self) -> None:
        outer = min(0.46 * self.width, self.horizon - 40)
        x, y = self.width / 2, self.horizon + 20
        for k, color in enumerate(RAINBOW):
            self.canvas.arch(x, y, outer - 22 * k, 24, mix(self.haze, color, 0.75))

    def _draw_aurora(self) -> None:
        lamps = self.canvas.for_lamps()
        for column in range(self.columns):
            x, color = column * SQUARE, AURORA[column % 3]
            top = 40 + 160 * self.free_at(x, 64, 1)
            lamps.polygon(
                [(x, top), (x + SQUARE, top + 40), (x + SQUARE, top + 260), (x, top + 220)], color
            )
        self.canvas.add_light(lamps, 36, 0.9)

    def draw_water(self, top: float, shore: Color) -> None:
        """Draw water with a shore along its upper edge, and glitter on it."""
        deep = self.lit(mix((40, 92, 156), self.haze, 0.35))
        self.canvas.gradient(top, self.height, deep, shade(deep, 0.62))
        self.canvas.rectangle(0, top, self.width, top + 24, shore)
        glitter = (255, 255, 255) if self.mood == "day" else self.lamp
        for column in range(self.columns):
            x, y = column * SQUARE, top + 72 + 48 * (column % 2)
            self.canvas.rectangle(x + 32, y, x + 96, y + 12, mix(deep, glitter, 0.5))
            self.canvas.rectangle(x + 48, y + 96, x + 124, y + 108, mix(deep, glitter, 0.3))
