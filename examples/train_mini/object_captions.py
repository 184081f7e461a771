"""Writes captions of single objects."""

from __future__ import annotations

import random

from specs import USUAL_BACKGROUND, USUAL_COLOR, ObjectSpec
from words import (
    BACKGROUND_WORDS,
    COLOR_WORDS,
    KIND_WORDS,
    ON_BACKGROUND,
    SIDE_WORDS,
    SIZE_WORDS,
)


def with_article(words: str) -> str:
    """Put "a" or "an" before some words."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def plain_caption(spec: ObjectSpec) -> str:
    """Write the caption of an object that is easiest to understand."""
    thing = with_article(" ".join(filter(None, (spec.size, spec.color, spec.kind))))
    side = SIDE_WORDS[spec.side][0]
    return f"{thing}{side} on {with_article(spec.background)} background"


def _thing(kind: str, color: str, rng: random.Random, size: str, unsaid: float) -> str:
    """Name an object; its colour may be left out if it is the usual one."""
    words = [rng.choice(KIND_WORDS[kind])]
    if color != USUAL_COLOR[kind] or rng.random() < 1 - unsaid:
        words.insert(0, rng.choice(COLOR_WORDS.get(color, (color,))))
    if size:
        words.insert(0, rng.choice(SIZE_WORDS[size]))
    thing = " ".join(words)
    return with_article(thing) if rng.random() < 0.85 else thing


def object_caption(spec: ObjectSpec, rng: random.Random, hard: bool) -> str:
    """Write a caption of an object; `hard` ones are those of `captions.caption`."""
    thing = _thing(spec.kind, spec.color, rng, spec.size, 0.6 if hard else 0.3)
    side = rng.choice(SIDE_WORDS[spec.side])
    if spec.background == USUAL_BACKGROUND and rng.random() < 0.4:
        return thing + side
    background = _background(spec.background, rng)
    if rng.random() < (0.25 if hard else 0.08):
        return f"{background} background with {thing}{side}"
    return thing + side + rng.choice(ON_BACKGROUND) % background


def _background(color: str, rng: random.Random) -> str:
    return with_article(rng.choice(BACKGROUND_WORDS.get(color, (color,))))
