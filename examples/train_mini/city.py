"""Draws cities: towers and streets, and in cyberpunk ones neon signs and a huge sun."""

from __future__ import annotations

from drawing import Canvas, Color, mix, shade
from scenery import SQUARE, Scenery

WALLS = {"day": (98, 110, 136), "sunset": (72, 52, 88), "night": (26, 28, 54), "neon": (22, 14, 50)}
NEON: tuple[Color, ...] = ((255, 40, 160), (0, 228, 255), (255, 150, 30), (70, 255, 140))
RED_LIGHT: Color = (255, 48, 60)


class City(Scenery):
    """Draws a skyline over water, or a street."""

    lamps: Canvas | None  # what glows, where anything does

    def draw_city(self) -> None:
        """Draw towers, and a street or water before them."""
        canvas, spec, base = self.canvas, self.spec, self.horizon
        if spec.cyberpunk:
            self._draw_huge_sun()
        far = mix(shade((72, 82, 112), 0.4 + 0.6 * self.light), self.haze, 0.5)
        for column in range(self.columns):
            x = column * SQUARE
            height = (150 + 260 * self.free_at(x, 300 * self.tall, 1)) * self.tall
            canvas.rectangle(x - 52, base - height, x + 52, base, far)
        self.lamps = canvas.for_lamps() if spec.cyberpunk else None
        for column in range(self.columns):
            self._draw_tower(column)
        if spec.street:
            self._draw_street()
        else:
            self.draw_water(base, shade(WALLS[self.mood], 0.7))
        if self.lamps is not None:
            canvas.add_light(self.lamps, 36)
            if spec.street:
                self._draw_car()

    def _draw_huge_sun(self) -> None:
        x, y, radius = self.width / 2, self.down(368), 0.21 * min(self.width, self.height)
        glow = self.canvas.for_lamps()
        glow.disc(x, y, radius * 1.25, (120, 40, 90))
        self.canvas.add_light(glow, 70)
        self.canvas.disc(x, y, radius, (255, 92, 120))
        self.canvas.disc(x, y + radius * 0.1, radius * 0.88, (255, 140, 108))

    def _draw_tower(self, column: int) -> None:
        canvas, base = self.canvas, self.horizon
        left, right = column * SQUARE + 8, column * SQUARE + 120
        free = self.free_at(left, 448 * self.tall)
        top = base - (190 + 400 * free) * max(self.tall, 0.625)
        wall = shade(WALLS[self.mood], 0.88 + 0.06 * (column * 5 % 4))
        canvas.rectangle(left, top, right, base, wall)
        if self.spec.snow:
            canvas.rectangle(left, top, right, top + 16, self.white)
        glass = {"day": (178, 212, 234)}.get(self.mood, (255, 216, 112))
        if self.spec.cyberpunk:
            glass = mix(glass, NEON[(column + 1) % 4], 0.5)
        dark = mix(wall, glass, 0.18)
        for row in range(24):
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
        canvas, base, middle = self.canvas, self.horizon, self.width / 2
        road = (84, 88, 96) if self.mood == "day" else shade((74, 68, 96), 0.42 + 0.42 * self.light)
        pavement = self.white if self.spec.snow else shade(road, 1.3)
        canvas.rectangle(0, base, self.width, self.height, pavement)
        wide = 0.476 * self.width
        lane = [(middle - 72, base), (middle + 72, base)]
        lane += [(middle + wide, self.height), (middle - wide, self.height)]
        canvas.polygon(lane, shade(road, 0.72))
        for k in range(5):
            y, half = base + 18 + 18 * k * (k + 1), 5 + 5 * k
            canvas.rectangle(middle - half, y, middle + half, y + 16 + 12 * k, (240, 218, 124))

    def _draw_car(self) -> None:
        """Draw the back of a car that drives away, with its lights on."""
        canvas, x, ground = self.canvas, 0.5 * self.width, self.height - 66
        body, glass = (46, 22, 78), (70, 214, 240)
        roof = [(x - 66, ground - 66), (x - 44, ground - 116), (x + 44, ground - 116)]
        canvas.polygon([*roof, (x + 66, ground - 66)], body)
        canvas.polygon(
            [
                (x - 50, ground - 70),
                (x - 36, ground - 106),
                (x + 36, ground - 106),
                (x + 50, ground - 70),
            ],
            glass,
        )
        for side in (-1, 1):
            canvas.rectangle(
                x + side * 66 - 18, ground - 16, x + side * 66 + 18, ground + 14, (8, 6, 16)
            )
        canvas.pill(x - 96, ground - 74, x + 96, ground, 18, body)
        lights = canvas.for_lamps()
        for target in (canvas, lights):
            for side in (-1, 1):
                target.pill(
                    x + side * 62 - 26, ground - 56, x + side * 62 + 26, ground - 30, 8, RED_LIGHT
                )
        canvas.add_light(lights, 22, 1.4)
