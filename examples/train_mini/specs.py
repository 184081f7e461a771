"""What a training picture can show: the specifications, and how they are drawn at random.

A specification together with a grid of free variables determines a picture completely. The caption
states the specification; whatever it leaves out is at its default ("a city at night" is a skyline,
"the sea at sunset" has a sun), so that no two pictures share a caption and differ in anything that
the free variables do not explain.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from drawing import PALETTE

SIMPLE_KINDS = ("circle", "square", "triangle", "star", "heart", "diamond", "ring")
FIGURE_KINDS = ("house", "tree", "car", "cat", "flower")
KINDS = SIMPLE_KINDS + FIGURE_KINDS
USUAL_COLOR = {
    "circle": "red",
    "square": "blue",
    "triangle": "green",
    "star": "yellow",
    "heart": "red",
    "diamond": "cyan",
    "ring": "yellow",
    "house": "red",
    "tree": "green",
    "car": "red",
    "cat": "orange",
    "flower": "pink",
}
USUAL_BACKGROUND = "white"
USUAL_HOUSES = "red"
SIDES = ("left", "right", "top", "bottom")
SIZES = ("small", "big")

# How often each kind of place is drawn.
PLACES = {
    "city": 30,
    "mountains": 16,
    "sea": 16,
    "desert": 8,
    "forest": 10,
    "field": 12,
    "village": 8,
}
TIMES = {"day": 35, "sunset": 30, "night": 35}

HELD_OUT_PERCENT = 5  # of the (kind, colour, background) triples are never trained on


@dataclass(frozen=True)
class ObjectSpec:
    """One object on a plain background; an empty side is the middle, an empty size the usual."""

    kind: str
    color: str
    background: str
    side: str = ""
    size: str = ""

    @property
    def held_out(self) -> bool:
        """Tell whether this combination is kept for evaluation."""
        key = f"{self.kind} {self.color} {self.background}".encode()
        return zlib.crc32(key) % 100 < HELD_OUT_PERCENT

    @property
    def usual(self) -> bool:
        """Tell whether a caption may leave out both colours."""
        return (self.color, self.background) == (USUAL_COLOR[self.kind], USUAL_BACKGROUND)


@dataclass(frozen=True)
class PlaceSpec:
    """A landscape or a city, at a time of day, with what stands in it."""

    place: str
    time: str
    cyberpunk: bool = False  # city only, and always at night
    street: bool = False  # city only: a street instead of a skyline over water
    rain: bool = False  # city only
    snow: bool = False
    stars: bool = False  # night only; without them the night has a moon
    clouds: bool = False
    sun: bool = False  # day only; at sunset the sun is always there
    lake: bool = False  # mountains only; otherwise there are pines
    beach: bool = False  # sea only
    boat: bool = False  # sea only
    cactuses: bool = False  # desert only
    pines: bool = False  # forest only
    flowers: str = ""  # field only: their colour
    tree: bool = False  # field only
    houses: str = ""  # village only: their colour
    fog: bool = False
    rainbow: bool = False  # day only
    aurora: bool = False  # mountains, on a starry night
    lighthouse: bool = False  # sea only
    bare_sky: bool = False  # without the sun or moon that is there by default


Spec = ObjectSpec | PlaceSpec


def all_objects() -> list[ObjectSpec]:
    """List every object in the middle and of the usual size, held-out ones included."""
    return [
        ObjectSpec(kind, color, background)
        for kind in KINDS
        for color in PALETTE
        for background in PALETTE
        if color != background
    ]


def moved_objects(rng: random.Random, count: int) -> list[ObjectSpec]:
    """Draw objects that stand at a side or have an unusual size, none of them held out."""
    specs: list[ObjectSpec] = []
    centred = [spec for spec in all_objects() if not spec.held_out]
    while len(specs) < count:
        base = rng.choice(centred)
        side = rng.choice(("", *SIDES))
        size = rng.choice(SIZES) if not side else ""
        specs.append(ObjectSpec(base.kind, base.color, base.background, side, size))
    return specs


def sample_place(rng: random.Random) -> PlaceSpec:
    """Draw a random landscape or city."""

    def chance(probability: float) -> bool:
        return rng.random() < probability

    place = rng.choices(list(PLACES), weights=list(PLACES.values()))[0]
    time = rng.choices(list(TIMES), weights=list(TIMES.values()))[0]
    cyberpunk = place == "city" and chance(0.5)
    if cyberpunk:
        time = "night"
    can_snow = place not in ("sea", "desert")
    rain = place == "city" and chance(0.25)
    sun = time == "day" and not rain and chance(0.4)
    stars = time == "night" and not rain and chance(0.15 if place == "city" else 0.45)
    houses = ""
    if place == "village":
        houses = rng.choice((USUAL_HOUSES, USUAL_HOUSES, "white", "blue", "yellow"))
    return PlaceSpec(
        place=place,
        time=time,
        cyberpunk=cyberpunk,
        street=place == "city" and chance(0.6 if cyberpunk else 0.4),
        rain=rain,
        snow=can_snow and not rain and chance(0.45 if place in ("mountains", "forest") else 0.2),
        stars=stars,
        clouds=time != "night" and not sun and chance(0.35),
        sun=sun,
        lake=place == "mountains" and chance(0.5),
        beach=place == "sea" and chance(0.5),
        boat=place == "sea" and chance(0.4),
        cactuses=place == "desert" and chance(0.7),
        pines=place == "forest" and chance(0.55),
        flowers=rng.choice(("", "", "red", "yellow", "white", "purple"))
        if place == "field"
        else "",
        tree=place == "field" and chance(0.45),
        houses=houses,
        fog=not rain and not sun and chance(0.12),
        rainbow=time == "day" and place not in ("city", "forest") and chance(0.15),
        aurora=place == "mountains" and stars and chance(0.4),
        lighthouse=place == "sea" and chance(0.3),
    )
