"""Draws landscapes: mountains, the sea, deserts, forests, fields and villages."""

from __future__ import annotations

import math

from drawing import PALETTE, Color, draw_house, draw_leaf_tree, draw_pine, mix, shade
from scenery import SQUARE, Scenery


class Nature(Scenery):
    """Draws what stands in the country."""

    def draw_mountains(self) -> None:
        """Draw two ranges, with a lake or pines before them."""
        canvas, spec, base, tall = self.canvas, self.spec, self.horizon, self.tall
        far = shade(mix((92, 108, 144), self.haze, 0.4), self.light * 0.6 + 0.4)
        near = self.lit((66, 80, 106), 0.3)
        shore = base + self.down(96)
        for x in range(64, self.width + 128, 256):
            height = 350 + 90 * self.free_at(x, 448 * tall, 1)
            self._draw_peak(x, base, height * tall, far)
        for x in (*range(192, self.width + 128, 512), *range(448, self.width + 128, 512)):
            height = 350 + 110 * self.free_at(x, 576 * tall)
            self._draw_peak(x, shore, height * tall, near)
        if spec.lake:
            deep = self.lit(mix((50, 112, 172), self.haze, 0.3))
            canvas.gradient(shore, self.height, mix(deep, self.haze, 0.3), shade(deep, 0.8))
            for k in range(self.columns):
                x, y = k * 128 + 16, shore + 48 + 96 * (k % 2)
                canvas.rectangle(x, y, x + 96, y + 12, mix(deep, (255, 255, 255), 0.35))
            return
        ground = self.white if spec.snow else self.lit((74, 140, 68))
        canvas.rectangle(0, shore, self.width, self.height, ground)
        for k in range(self.columns):
            x, y = k * 128 + 64, base + self.down(184 + 72 * (k % 2))
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

    def draw_sea(self) -> None:
        """Draw the sea, with what stands in it or before it."""
        canvas, spec, base = self.canvas, self.spec, self.horizon
        deep = self.lit((26, 102, 178), 0.15)
        near_haze = mix(deep, self.haze, 0.5)
        canvas.gradient(base, self.height, near_haze, shade(deep, 0.75))
        for k in range(self.columns * round(2 * self.tall)):
            row, column = divmod(k, self.columns)
            x, y = SQUARE * column + 24, base + 32 + SQUARE * row + 64 * (column % 2)
            canvas.rectangle(x, y, x + 88, y + 10, mix(deep, self.haze, 0.6))
        if spec.time == "sunset" and not spec.bare_sky:
            for k in range(round(6 * self.tall)):
                y, half = base + 16 + 40 * k, 74 - 8 * k + 24 * (k % 2)
                gold = mix(deep, (255, 206, 112), 0.75)
                canvas.rectangle(self.sun_x - half, y, self.sun_x + half, y + 16, gold)
        if spec.lighthouse:
            self._draw_lighthouse(SQUARE * round(0.8125 * self.width / SQUARE) - 64, base + 90)
        if spec.beach:
            line = [
                (x, self.down(872) + 24 * math.sin(x / 150)) for x in range(0, self.width + 16, 16)
            ]
            canvas.land([(x, y - 18) for x, y in line], mix(deep, (255, 255, 255), 0.65))
            canvas.land(line, self.lit((238, 208, 144)))
        if spec.boat:
            x = SQUARE * round(0.25 * self.width / SQUARE)
            drift = 40 * (self.free_at(x + 44, base + 100 * self.tall) - 0.5)
            self._draw_boat(x + drift, base + self.down(136))

    def _draw_lighthouse(self, x: float, ground: float) -> None:
        """Draw a striped lighthouse on a rock, its lamp lit unless it is day."""
        canvas = self.canvas
        rock = [(x - 130, ground + 20), (x - 84, ground - 44), (x + 70, ground - 52)]
        canvas.polygon([*rock, (x + 140, ground + 20)], self.lit((84, 82, 92)))
        height = 210 + 70 * self.free_at(x, ground - 230)
        foot, top = ground - 44, ground - 44 - height
        for k in range(4):
            y0, y1 = foot - height * k / 4, foot - height * (k + 1) / 4
            w0, w1 = 44 - 4 * k, 40 - 4 * k
            stripe = self.lit((226, 52, 52) if k % 2 else (248, 248, 248), 0.35)
            canvas.polygon([(x - w0, y0), (x + w0, y0), (x + w1, y1), (x - w1, y1)], stripe)
        lamp = (206, 228, 240) if self.spec.time == "day" else (255, 240, 160)
        canvas.rectangle(x - 38, top - 8, x + 38, top + 6, (40, 40, 52))
        canvas.rectangle(x - 22, top - 46, x + 22, top - 8, lamp)
        canvas.polygon([(x - 34, top - 46), (x, top - 84), (x + 34, top - 46)], (60, 44, 56))
        if self.spec.time != "day":
            lights = canvas.for_lamps()
            lights.disc(x, top - 26, 44, (255, 220, 130))
            canvas.add_light(lights, 40, 1.2)

    def _draw_boat(self, x: float, y: float) -> None:
        hull = [(x - 124, y - 32), (x + 124, y - 32), (x + 82, y + 34), (x - 82, y + 34)]
        self.canvas.polygon(hull, self.lit((158, 76, 44)))
        sail = [(x + 8, y - 44), (x + 8, y - 270), (x + 116, y - 60)]
        self.canvas.polygon(sail, self.lit((250, 250, 250), 0.3))
        jib = [(x - 8, y - 44), (x - 8, y - 232), (x - 94, y - 60)]
        self.canvas.polygon(jib, self.lit((236, 92, 72), 0.3))

    def draw_desert(self) -> None:
        """Draw dunes."""
        canvas, base = self.canvas, self.horizon
        sands = ((230, 180, 110), (214, 154, 84), (194, 130, 68))
        for k, (sand, drop) in enumerate(zip(sands, (0, 110, 230), strict=True)):
            line = [
                (x, base + self.down(drop) + 34 * math.sin(x / (190 + 30 * k) + 2 * k))
                for x in range(0, self.width + 16, 16)
            ]
            canvas.land(line, self.lit(sand))
        if self.spec.cactuses:
            for k, x in enumerate(self.spread(320, 1)):
                y = base + self.down(208 + 48 * (k % 2))
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

    def draw_forest(self) -> None:
        """Draw three rows of trees."""
        canvas, spec, base = self.canvas, self.spec, self.horizon
        grass = self.white if spec.snow else self.lit((66, 120, 60))
        canvas.rectangle(0, base, self.width, self.height, grass)
        snow = self.white if spec.snow else None
        grown = 0.5 + 0.5 * self.tall
        for row, (drop, height) in enumerate(((40, 290), (168, 330), (344, 400))):
            light = self.light * (0.62 + 0.19 * row)
            for k in range(self.columns if row == 0 else -(-self.columns // 2)):
                x = 64 + 128 * k if row == 0 else 128 * (2 * k + row % 2) + 64
                y = base + self.down(drop)
                tall = height * grown * (0.85 + 0.3 * self.free_at(x, y - 90))
                if spec.pines:
                    draw_pine(canvas, x, y, tall, shade((32, 110, 66), light), light, snow)
                else:
                    leaves = shade((56, 142, 58), light)
                    leaves = mix(leaves, self.white, 0.6) if spec.snow else leaves
                    draw_leaf_tree(canvas, x, y, tall, leaves, light)

    def _draw_hills(self) -> None:
        grass = self.white if self.spec.snow else self.lit((100, 174, 76))
        knots = range(0, self.width + 16, 16)
        near = self.horizon + self.down(96)
        back = [(x, self.horizon - 20 + 40 * math.sin(x / 230 + 1.0)) for x in knots]
        front = [(x, near + 32 * math.sin(x / 210 + 4.2)) for x in knots]
        self.canvas.land(back, shade(grass, 0.84))
        self.canvas.land(front, grass)

    def draw_field(self) -> None:
        """Draw hills, with flowers or a tree."""
        self._draw_hills()
        canvas, spec, base = self.canvas, self.spec, self.horizon
        if spec.flowers:
            petal, heart = self.lit(PALETTE[spec.flowers]), self.lit((255, 170, 40))
            for k in range(3 * self.columns):
                row, column = divmod(k, self.columns)
                x, y = SQUARE * column + 64 + 32 * (row % 2), base + self.down(176) + 84 * row
                size = 20 + 5 * row
                canvas.disc(x, y, size, petal)
                canvas.disc(x, y, size * 0.4, heart)
        if spec.tree:
            x = SQUARE * round(0.3125 * self.width / SQUARE - 0.5) + 64
            x += 40 * (self.free_at(x, base - 100) - 0.5)
            leaves = self.white if spec.snow else self.lit((48, 132, 60))
            grown = 430 * (0.5 + 0.5 * self.tall)
            draw_leaf_tree(canvas, x, base + self.down(170), grown, leaves, self.light)

    def draw_village(self) -> None:
        """Draw hills with houses."""
        self._draw_hills()
        base = self.horizon
        for k, x in enumerate(self.spread(320, 2)):
            y = base + self.down(176 + 64 * (k % 2))
            y += 40 * (self.free_at(x, base + 100 * self.tall) - 0.5)
            wall = PALETTE[self.spec.houses]
            draw_house(self.canvas, x, y, 122, wall, self.light * 0.8 + 0.2, self.lamp)
            if self.spec.snow:
                roof = [(x - 90, y - 122 * 1.25), (x, y - 122 * 1.86), (x + 90, y - 122 * 1.25)]
                self.canvas.polygon(roof, self.white)
