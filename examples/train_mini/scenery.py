"""What all places share: the sky, the light of the hour, snow and rain, and water."""

from __future__ import annotations

import numpy as np
from drawing import Canvas, Color, mix, shade
from specs import PlaceSpec

FREE_SHAPE = (2, 8, 8)  # channels, rows, columns of the free variables
SQUARE = 128  # drawing units a side

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
STARS = (  # x, y, radius
    (96, 80, 9), (240, 190, 8), (352, 64, 10), (480, 144, 8), (608, 60, 8), (736, 176, 10),
    (864, 90, 8), (960, 208, 8), (160, 288, 8), (416, 272, 8), (576, 240, 9), (800, 300, 8),
    (40, 200, 7), (304, 352, 7), (688, 352, 7), (928, 352, 7),
)  # fmt: skip
FLAKES = tuple(  # x, y, radius: one in each square of the upper rows, fixed
    (128 * (k % 8) + 24 + (k * 37) % 80, 128 * (k // 8) + 24 + (k * 53) % 80, 9 + k % 4)
    for k in range(64)
    if (k + k // 8) % 2 == 0
)


class Scenery:
    """A place on a canvas, at an hour and in a weather; subclasses draw what stands there."""

    def __init__(self, canvas: Canvas, spec: PlaceSpec, free: np.ndarray) -> None:
        """Prepare to draw a place, with free variables of shape (2, 8, 8)."""
        self.canvas, self.spec, self.free = canvas, spec, free
        self.mood = "neon" if spec.cyberpunk else spec.time
        self.light = DAYLIGHT[self.mood]
        self.zenith, self.haze = SKY[self.mood]
        if spec.rain or (spec.clouds and spec.time == "day" and spec.place == "city"):
            grey = shade((150, 158, 176), self.light)
            self.zenith, self.haze = mix(self.zenith, grey, 0.3), mix(self.haze, grey, 0.3)
        self.horizon = HORIZON[spec.place]
        self.white = shade((244, 247, 255), self.light * 0.7 + 0.3)
        self.lamp = (206, 228, 240) if spec.time == "day" else (255, 220, 118)

    def free_at(self, x: float, y: float, channel: int = 0) -> float:
        """Return the free variable of the 128-unit square that holds (x, y)."""
        row, column = min(7, int(y // SQUARE)), min(7, int(x // SQUARE))
        return float(self.free[channel, row, column])

    def lit(self, color: Color, floor: float = 0.2) -> Color:
        """Return a colour as the time of day shows it; `floor` is what stays in the dark."""
        return shade(color, self.light * (1 - floor) + floor)

    def draw(self) -> None:
        """Draw everything, back to front."""
        self.canvas.gradient(0, self.horizon, self.zenith, self.haze)
        self.canvas.gradient(self.horizon, 1024, self.haze, self.haze)
        self._draw_sky()
        self.draw_place()
        if self.spec.snow:
            for x, y, radius in FLAKES:
                self.canvas.disc(x, y, radius, (250, 250, 255))
        if self.spec.rain:
            drop = mix(self.haze, (225, 235, 250), 0.6)
            for x, y, _ in FLAKES:
                self.canvas.polygon([(x, y), (x + 5, y), (x - 19, y + 84), (x - 24, y + 84)], drop)

    def draw_place(self) -> None:
        """Draw everything but sky and weather."""
        raise NotImplementedError

    def _draw_sky(self) -> None:
        spec, canvas = self.spec, self.canvas
        if spec.stars:
            for x, y, radius in STARS:
                canvas.disc(x, y, radius, (255, 255, 230))
        self._draw_sun_or_moon()
        if spec.clouds:
            color = mix(self.haze, (255, 255, 255), 0.62)
            for x, y in ((176, 150), (848, 130), (520, 250)):
                x += 40 * (self.free_at(x, y, 1) - 0.5)
                for dx, size in ((-80, 44), (80, 48), (0, 66)):
                    canvas.ellipse(x + dx, y, size * 1.2, size * 0.8, color)

    def _draw_sun_or_moon(self) -> None:
        spec = self.spec
        moon = spec.time == "night" and not (spec.stars or spec.cyberpunk or spec.rain)
        if not (spec.sun or moon or (spec.time == "sunset" and not spec.rain)):
            return
        low = {"sea": 60, "desert": 60, "field": 80}.get(spec.place, 0)
        if spec.time == "sunset" and low:
            x, y = 448 + 128 * self.free_at(512, self.horizon - 64, 1), self.horizon - low
        else:
            x, y = 640 + 128 * self.free_at(704, 192, 1), 192.0
        self.sun_x = x
        lamps = Canvas(64)
        halo = (120, 124, 140) if moon else (230, 170, 90)
        lamps.disc(x, y, 90, halo)
        self.canvas.add_light(lamps, 60)
        disc = {"day": (255, 240, 124), "sunset": (255, 212, 104)}.get(spec.time, (246, 244, 220))
        self.canvas.disc(x, y, 80, disc)

    def draw_water(self, top: float, shore: Color) -> None:
        """Draw water with a shore along its upper edge, and glitter on it."""
        deep = self.lit(mix((40, 92, 156), self.haze, 0.35))
        self.canvas.gradient(top, 1024, deep, shade(deep, 0.62))
        self.canvas.rectangle(0, top, 1024, top + 24, shore)
        glitter = (255, 255, 255) if self.mood == "day" else self.lamp
        for column in range(8):
            x, y = column * 128, top + 72 + 48 * (column % 2)
            self.canvas.rectangle(x + 32, y, x + 96, y + 12, mix(deep, glitter, 0.5))
            self.canvas.rectangle(x + 48, y + 96, x + 124, y + 108, mix(deep, glitter, 0.3))
