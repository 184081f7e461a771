"""The renderer: draws a specification and its free variables at any size.

The free variables are a grid `free[channel, row, column]` of shape (2, 8, 8), each uniform on
(0, 1). Each belongs to one square of 128 x 128 drawing units, and whatever it moves stands in or
above that square: `coupling.py` writes it into the latent noise of the same place, so the network
finds the cause of a thing where the thing is.
"""

from __future__ import annotations

import math

import numpy as np
from drawing import (
    PALETTE,
    Canvas,
    Color,
    draw_house,
    draw_leaf_tree,
    draw_object,
    draw_pine,
    mix,
    shade,
)
from scenery import Scenery
from specs import ObjectSpec, Spec

WALLS = {"day": (98, 110, 136), "sunset": (72, 52, 88), "night": (26, 28, 54), "neon": (22, 14, 50)}
NEON: tuple[Color, ...] = ((255, 40, 160), (0, 228, 255), (255, 150, 30), (70, 255, 140))


def render(spec: Spec, free: np.ndarray, pixels: int) -> np.ndarray:
    """Draw a picture: uint8 (pixels, pixels, 3)."""
    canvas = Canvas(pixels)
    if isinstance(spec, ObjectSpec):
        _draw_object_picture(canvas, spec)
    else:
        _Place(canvas, spec, free).draw()
    return canvas.to_array()


def _draw_object_picture(canvas: Canvas, spec: ObjectSpec) -> None:
    background = PALETTE[spec.background]
    canvas.gradient(0, 1024, shade(background, 1.05), shade(background, 0.92))
    x, y = {"left": (290, 512), "right": (734, 512), "top": (512, 290), "bottom": (512, 734)}.get(
        spec.side, (512, 512)
    )
    radius = {"small": 140, "": 260, "big": 370}[spec.size]
    if spec.side:
        radius = 190
    behind = shade(background, 0.985)
    draw_object(canvas, spec.kind, x, y, radius, PALETTE[spec.color], behind)


class _Place(Scenery):
    """Draws one landscape or city."""

    def draw_place(self) -> None:
        """Draw what stands at the place."""
        getattr(self, f"_draw_{self.spec.place}")()

    def _draw_city(self) -> None:
        canvas, spec, base = self.canvas, self.spec, self.horizon
        far = mix(shade((72, 82, 112), 0.4 + 0.6 * self.light), self.haze, 0.5)
        for column in range(8):
            height = 150 + 260 * self.free_at(column * 128, 300, 1)
            canvas.rectangle(column * 128 - 52, base - height, column * 128 + 52, base, far)
        self.lamps = Canvas(128) if spec.cyberpunk else None
        for column in range(8):
            self._draw_tower(column)
        if spec.street:
            self._draw_street()
        else:
            self.draw_water(base, shade(WALLS[self.mood], 0.7))
        if self.lamps is not None:
            canvas.add_light(self.lamps, 36)

    def _draw_tower(self, column: int) -> None:
        canvas, base = self.canvas, self.horizon
        left, right = column * 128 + 8, column * 128 + 120
        top = base - 190 - 400 * self.free_at(left, 448)
        wall = shade(WALLS[self.mood], 0.88 + 0.06 * (column * 5 % 4))
        canvas.rectangle(left, top, right, base, wall)
        if self.spec.snow:
            canvas.rectangle(left, top, right, top + 16, self.white)
        glass = {"day": (178, 212, 234)}.get(self.mood, (255, 216, 112))
        if self.spec.cyberpunk:
            glass = mix(glass, NEON[(column + 1) % 4], 0.5)
        dark = mix(wall, glass, 0.18)
        for row in range(20):
            y = base - 40 - 32 * row
            if y < top + 24:
                break
            for k in range(3):
                off = (k + 2 * row + column) % 4 == 0 and self.spec.time != "day"
                x = left + 8 + 32 * k + 2
                canvas.rectangle(x + 4, y - 6, x + 26, y + 14, dark if off else glass)
        if self.lamps is not None:
            self._draw_sign(column, left, top)

    def _draw_sign(self, column: int, left: float, top: float) -> None:
        color, ink = NEON[column % 4], (34, 10, 54)
        for canvas in (self.canvas, self.lamps):
            if column % 2 == 0:
                canvas.pill(left + 30, top + 48, left + 82, top + 200, 12, color)
                for k in range(3):
                    y = top + 66 + 44 * k
                    canvas.rectangle(left + 44, y, left + 68, y + 26, ink)
            else:
                canvas.pill(left + 4, top + 48, left + 108, top + 112, 12, color)
                for k in range(3):
                    x = left + 18 + 28 * k
                    canvas.rectangle(x, top + 66, x + 18, top + 94, ink)
        # The wet street mirrors the sign.
        y = self.horizon + 40
        self.lamps.rectangle(left, y, left + 112, y + 150, shade(color, 0.55))

    def _draw_street(self) -> None:
        canvas, base = self.canvas, self.horizon
        road = (84, 88, 96) if self.mood == "day" else shade((74, 68, 96), 0.42 + 0.42 * self.light)
        canvas.rectangle(0, base, 1024, 1024, self.white if self.spec.snow else shade(road, 1.3))
        lane = [(440, base), (584, base), (1000, 1024), (24, 1024)]
        canvas.polygon(lane, shade(road, 0.72))
        for k in range(4):
            y, half = base + 18 + 18 * k * (k + 1), 5 + 5 * k
            canvas.rectangle(512 - half, y, 512 + half, y + 16 + 12 * k, (240, 218, 124))

    def _draw_mountains(self) -> None:
        canvas, spec, base = self.canvas, self.spec, self.horizon
        far = shade(mix((92, 108, 144), self.haze, 0.4), self.light * 0.6 + 0.4)
        near = self.lit((66, 80, 106), 0.3)
        for x in (64, 320, 576, 832):
            self._draw_peak(x, base, 350 + 90 * self.free_at(x, 448, 1), far)
        for x in (192, 704, 448, 960):
            self._draw_peak(x, base + 96, 350 + 110 * self.free_at(x, 576), near)
        if spec.lake:
            deep = self.lit(mix((50, 112, 172), self.haze, 0.3))
            canvas.gradient(base + 96, 1024, mix(deep, self.haze, 0.3), shade(deep, 0.8))
            for k in range(8):
                x, y = k * 128 + 16, base + 144 + 96 * (k % 2)
                canvas.rectangle(x, y, x + 96, y + 12, mix(deep, (255, 255, 255), 0.35))
            return
        canvas.rectangle(
            0, base + 96, 1024, 1024, self.white if spec.snow else self.lit((74, 140, 68))
        )
        for k in range(8):
            x, y = k * 128 + 64, base + 184 + 72 * (k % 2)
            height = 150 + 60 * self.free_at(x, y - 60)
            snow = self.white if spec.snow else None
            draw_pine(canvas, x, y, height, self.lit((30, 102, 64)), self.light, snow)

    def _draw_peak(self, x: float, base: float, height: float, color: Color) -> None:
        half, top = height * 0.85, base - height
        self.canvas.polygon([(x - half, base), (x, top), (x + half, base)], color)
        shadow = [(x, top), (x + half, base), (x + half * 0.25, base)]
        self.canvas.polygon(shadow, shade(color, 0.82))
        if self.spec.snow:
            cap, dip = top + height * 0.34, top + height * 0.24
            zigzag = [(0.34, cap), (0.14, dip), (0.0, cap), (-0.14, dip), (-0.34, cap)]
            self.canvas.polygon([(x, top), *((x + half * a, y) for a, y in zigzag)], self.white)

    def _draw_sea(self) -> None:
        canvas, spec, base = self.canvas, self.spec, self.horizon
        deep = self.lit((26, 102, 178), 0.15)
        near_haze = mix(deep, self.haze, 0.5)
        canvas.gradient(base, 1024, near_haze, shade(deep, 0.75))
        for k in range(16):
            x, y = 128 * (k % 8) + 24, base + 32 + 128 * (k // 8) + 64 * (k % 2)
            canvas.rectangle(x, y, x + 88, y + 10, mix(deep, self.haze, 0.6))
        if spec.time == "sunset":
            for k in range(6):
                y, half = base + 16 + 40 * k, 74 - 8 * k + 24 * (k % 2)
                gold = mix(deep, (255, 206, 112), 0.75)
                canvas.rectangle(self.sun_x - half, y, self.sun_x + half, y + 16, gold)
        if spec.beach:
            line = [(16 * k, 872 + 24 * math.sin(16 * k / 150)) for k in range(65)]
            canvas.land([(x, y - 18) for x, y in line], mix(deep, (255, 255, 255), 0.65))
            canvas.land(line, self.lit((238, 208, 144)))
        if spec.boat:
            self._draw_boat(256 + 40 * (self.free_at(300, base + 100) - 0.5), base + 136)

    def _draw_boat(self, x: float, y: float) -> None:
        hull = [(x - 124, y - 32), (x + 124, y - 32), (x + 82, y + 34), (x - 82, y + 34)]
        self.canvas.polygon(hull, self.lit((158, 76, 44)))
        sail = [(x + 8, y - 44), (x + 8, y - 270), (x + 116, y - 60)]
        self.canvas.polygon(sail, self.lit((250, 250, 250), 0.3))
        jib = [(x - 8, y - 44), (x - 8, y - 232), (x - 94, y - 60)]
        self.canvas.polygon(jib, self.lit((236, 92, 72), 0.3))

    def _draw_desert(self) -> None:
        canvas, base = self.canvas, self.horizon
        sands = ((230, 180, 110), (214, 154, 84), (194, 130, 68))
        for k, (sand, drop) in enumerate(zip(sands, (0, 110, 230), strict=True)):
            knots = [16 * i for i in range(65)]
            line = [(x, base + drop + 34 * math.sin(x / (190 + 30 * k) + 2 * k)) for x in knots]
            canvas.land(line, self.lit(sand))
        if self.spec.cactuses:
            for k in range(3):
                x, y = 192 + 320 * k, base + 208 + 48 * (k % 2)
                self._draw_cactus(x, y, 190 + 100 * self.free_at(x, base + 32))

    def _draw_cactus(self, x: float, ground: float, height: float) -> None:
        color = self.lit((50, 126, 62))
        self.canvas.pill(x - 26, ground - height, x + 26, ground, 24, color)
        for side, elbow in ((-1, -70), (1, -96)):
            outer = x + side * 68
            joint = (min(x, outer), ground + elbow - 42, max(x, outer), ground + elbow - 12)
            self.canvas.rectangle(*joint, color)
            tip = ground + elbow - 112
            self.canvas.pill(outer - 17, tip, outer + 17, ground + elbow - 12, 16, color)

    def _draw_forest(self) -> None:
        canvas, spec, base = self.canvas, self.spec, self.horizon
        grass = self.white if spec.snow else self.lit((66, 120, 60))
        canvas.rectangle(0, base, 1024, 1024, grass)
        snow = self.white if spec.snow else None
        for row, (drop, height) in enumerate(((40, 290), (168, 330), (344, 400))):
            light = self.light * (0.62 + 0.19 * row)
            for k in range(8 if row == 0 else 4):
                x = 64 + 128 * k if row == 0 else 128 * (2 * k + row % 2) + 64
                y = base + drop
                tall = height * (0.85 + 0.3 * self.free_at(x, y - 90))
                if spec.pines:
                    draw_pine(canvas, x, y, tall, shade((32, 110, 66), light), light, snow)
                else:
                    leaves = self.white if spec.snow else shade((56, 142, 58), light)
                    draw_leaf_tree(canvas, x, y, tall, leaves, light)

    def _draw_hills(self) -> None:
        grass = self.white if self.spec.snow else self.lit((100, 174, 76))
        knots = [16 * i for i in range(65)]
        back = [(x, self.horizon - 20 + 40 * math.sin(x / 230 + 1.0)) for x in knots]
        front = [(x, self.horizon + 96 + 32 * math.sin(x / 210 + 4.2)) for x in knots]
        self.canvas.land(back, shade(grass, 0.84))
        self.canvas.land(front, grass)

    def _draw_field(self) -> None:
        self._draw_hills()
        canvas, spec, base = self.canvas, self.spec, self.horizon
        if spec.flowers:
            petal, heart = self.lit(PALETTE[spec.flowers]), self.lit((255, 170, 40))
            for k in range(24):
                row = k // 8
                x, y = 128 * (k % 8) + 64 + 32 * (row % 2), base + 176 + 84 * row
                size = 20 + 5 * row
                canvas.disc(x, y, size, petal)
                canvas.disc(x, y, size * 0.4, heart)
        if spec.tree:
            x = 320 + 40 * (self.free_at(320, base - 100) - 0.5)
            leaves = self.white if spec.snow else self.lit((48, 132, 60))
            draw_leaf_tree(canvas, x, base + 170, 430, leaves, self.light)

    def _draw_village(self) -> None:
        self._draw_hills()
        base = self.horizon
        for k in range(3):
            x, y = 192 + 320 * k, base + 176 + 64 * (k % 2)
            y += 40 * (self.free_at(x, base + 100) - 0.5)
            wall = PALETTE[self.spec.houses]
            draw_house(self.canvas, x, y, 122, wall, self.light * 0.8 + 0.2, self.lamp)
            if self.spec.snow:
                roof = [(x - 90, y - 122 * 1.25), (x, y - 122 * 1.86), (x + 90, y - 122 * 1.25)]
                self.canvas.polygon(roof, self.white)
