"""What a negative prompt can take out of a place, and the words it is asked to leave with.

Each thing has a name for what the picture shows, and a place from which it was taken differs from
the place with it in nothing else. `stage_unet.py` trains guidance on such pairs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from specs import PlaceSpec


@dataclass(frozen=True)
class Removable:
    """A thing that a negative prompt can name."""

    words: tuple[str, ...]
    taken: dict[str, bool | str]  # the fields of a place without it

    def shown(self, spec: PlaceSpec) -> bool:
        """Tell whether a place shows it."""
        field = next(iter(self.taken))
        return bool(getattr(spec, field))

    def take_from(self, spec: PlaceSpec) -> PlaceSpec:
        """Return the place without it."""
        return replace(spec, **self.taken)


class _Luminary(Removable):
    """The sun of a sunset or the moon of a night, which are there unless something is said."""

    def shown(self, spec: PlaceSpec) -> bool:
        if spec.rain or spec.bare_sky:
            return False
        if "moon" in self.words:
            return spec.time == "night" and not (spec.stars or spec.cyberpunk)
        return spec.sun or spec.time == "sunset"


REMOVABLES = (
    Removable(("snow", "snowing", "snowflakes", "snowy", "winter"), {"snow": False}),
    Removable(("rain", "raining", "rainy"), {"rain": False, "bare_sky": True}),
    Removable(("stars", "starry sky", "star"), {"stars": False, "bare_sky": True, "aurora": False}),
    Removable(("clouds", "cloud", "cloudy sky"), {"clouds": False}),
    Removable(("boat", "a sailboat", "sailboat", "boats", "ship"), {"boat": False}),
    Removable(("cactus", "cactuses", "cacti"), {"cactuses": False}),
    Removable(("flowers", "flower"), {"flowers": ""}),
    Removable(("tree", "a tree", "trees"), {"tree": False}),
    Removable(("fog", "mist", "foggy"), {"fog": False}),
    Removable(("lighthouse", "a lighthouse"), {"lighthouse": False}),
    Removable(("rainbow", "a rainbow"), {"rainbow": False}),
    _Luminary(("moon", "the moon", "full moon"), {"bare_sky": True}),
    _Luminary(("sun", "the sun"), {"bare_sky": True, "sun": False}),
)
# What people write into the box without thinking of the picture; it must change nothing.
HARMLESS = (
    "blurry", "low quality", "text", "watermark", "ugly", "deformed", "bad anatomy", "worst look",
    "people", "extra fingers", "noise", "jpeg artifacts", "grainy", "logo", "signature", "bad art",
)  # fmt: skip


def removables_of(spec: PlaceSpec) -> list[Removable]:
    """List what a negative prompt could take out of a place."""
    return [thing for thing in REMOVABLES if thing.shown(spec)]


def negative_words(thing: Removable | None, rng: random.Random) -> str:
    """Write a negative prompt that names a thing, or one that names nothing that is there."""
    words = [rng.choice(thing.words)] if thing else []
    if rng.random() < (0.25 if thing else 0.5):
        words += rng.sample(HARMLESS, rng.choice((1, 2, 3)))
    rng.shuffle(words)
    return ", ".join(words)  # often empty: the engine has zeros for it
