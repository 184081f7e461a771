"""Writes a caption for a specification, anew at every use and in the words people type.

A caption states everything that is not at its default (see `specs.py`). Style words and, in one
caption of eight, a nonsense word are strewn in, so that the model learns to pass over words it has
no picture for.
"""

from __future__ import annotations

import random

from object_captions import object_caption, with_article
from specs import (
    USUAL_HOUSES,
    PlaceSpec,
    Spec,
)
from words import (
    CITY_WORDS,
    CYBERPUNK_STREETS,
    CYBERPUNK_WORDS,
    NEON_WORDS,
    OPENINGS,
    STYLES,
    TIME_TAGS,
    TIME_WORDS,
    TOWERS,
    UNKNOWN,
)

NONSENSE_SHARE = 0.1
STRANGER_SHARE = 0.06  # of the captions name something beside what is there that nobody can draw
TAG_SHARE = 0.12  # of the captions of places are lists of words without prepositions
UNKNOWN_SHARE = 0.5  # of the plainest mountains are what an unknown subject gets


def nonsense(rng: random.Random) -> str:
    """Make up a word that means nothing."""
    syllables = rng.choice((1, 2, 2, 3))
    word = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(syllables))
    return word + rng.choice(("", "n", "s", "r", "ing", "ed"))


def caption(spec: Spec, rng: random.Random, hard: bool = False) -> str:
    """Write a caption; different calls give different wordings.

    `hard` ones of objects leave a colour out, or name the background first, more often than people
    do: from their own share of the captions both would be learnt too late.
    """
    if isinstance(spec, PlaceSpec):
        text = _Place(spec, rng).text()
    else:
        text = object_caption(spec, rng, hard)
    if rng.random() < NONSENSE_SHARE:
        words = text.split(" ")
        words.insert(rng.randrange(len(words) + 1), nonsense(rng))
        text = " ".join(words)
    if rng.random() < 0.35:
        text = rng.choice(OPENINGS) + text
    if rng.random() < 0.4:
        text += ", " + ", ".join(rng.sample(STYLES, rng.choice((1, 1, 2, 3))))
    return text


class _Place:
    """Collects the parts of one caption of a place: subject, time, and further things."""

    def __init__(self, spec: PlaceSpec, rng: random.Random) -> None:
        self.spec, self.rng = spec, rng
        self.extras: list[str] = []
        self.night_said = False  # the subject or an extra already says that it is night

    def pick(self, *words: str) -> str:
        return self.rng.choice(words)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def text(self) -> str:
        subject = self._unknown() or getattr(self, f"_{self.spec.place}")()
        subject = self._weather(subject)
        subject = self._sights(subject)
        time = self._time()
        self.rng.shuffle(self.extras)
        if self.chance(TAG_SHARE):
            subject = subject.removeprefix("a ").removeprefix("an ").removeprefix("the ")
            tag = "" if self.night_said and not time else self.pick(*TIME_TAGS[self.spec.time])
            return ", ".join(part for part in (subject, tag, *self.extras) if part)
        text = self._join(subject, time)
        if self.extras:
            if self.chance(0.6):
                text += ", " + ", ".join(self.extras)
            else:
                text += " with " + " and ".join(self.extras)
        return text

    def _unknown(self) -> str:
        """Name a subject that nobody can draw: it gets the plainest mountains there are."""
        spec = self.spec
        plain = PlaceSpec("mountains", spec.time, lake=True, sun=spec.sun, stars=spec.stars)
        known = spec != plain or not self.chance(UNKNOWN_SHARE)
        return "" if known else with_article(self.pick(*UNKNOWN))

    def _sights(self, subject: str) -> str:
        """Mention what any place can have, and sometimes a thing that is not there."""
        spec = self.spec
        if spec.fog:
            if self.chance(0.4) and subject.startswith("a "):
                subject = self.pick("a foggy ", "a misty ") + subject.removeprefix("a ")
            else:
                self.extras.append(self.pick("fog", "mist", "foggy", "misty", "in the fog"))
        wide = []
        if spec.rainbow:
            wide = ["a rainbow", "rainbow", "a rainbow in the sky"]
        elif spec.aurora:
            wide = ["northern lights", "aurora", "aurora borealis", "the northern lights"]
        if wide and self.chance(0.35):
            subject = f"{wide[self.rng.randrange(2)]} over {subject}"
        elif wide:
            self.extras.append(self.pick(*wide))
        moon = spec.time == "night" and not (spec.stars or spec.rain or spec.cyberpunk)
        if moon and self.chance(0.4):
            self.extras.append(self.pick("a full moon", "moon", "the moon", "moonlight"))
        if self.chance(STRANGER_SHARE):
            self.extras.append(with_article(self.pick(*UNKNOWN)))
        return subject

    def _join(self, subject: str, time: str) -> str:
        preposition = "in " if self.spec.place in ("city", "village", "desert") else "over "
        if time in ("at night", "by night") and self.chance(0.15):
            return "night " + preposition + subject
        if time == "at sunset" and self.chance(0.25):
            return "sunset " + preposition + subject
        if time == "on a starry night" and self.chance(0.5):
            return "a starry night " + preposition + subject
        if time and self.chance(0.08):
            return f"{time}, {subject}"
        return f"{subject} {time}".strip()

    def _time(self) -> str:
        spec = self.spec
        if spec.sun and self.chance(0.7):
            return self.pick("on a sunny day", "in the sunshine", "on a bright sunny day")
        if spec.sun:
            self.extras.append(self.pick("sun", "the sun", "a bright sun"))
        if spec.clouds and spec.time == "day" and self.chance(0.4):
            return self.pick("on a cloudy day", "under a cloudy sky")
        if spec.clouds:
            self.extras.append(self.pick("clouds", "white clouds"))
        if spec.stars:
            if self.chance(0.6):
                return self.pick("on a starry night", "under a starry sky", "under the stars")
            self.extras.append(self.pick("stars", "stars in the sky", "starry sky"))
        elif spec.time == "sunset" and self.chance(0.1):
            self.extras.append(self.pick("setting sun", "sun"))
        if self.night_said and self.chance(0.6):
            return ""
        return self.pick(*TIME_WORDS[spec.time])

    def _weather(self, subject: str) -> str:
        adjective = ""
        if self.spec.snow and "snow" not in subject:
            adjective = self.pick("snowy", "winter", "snow-covered")
        if self.spec.rain:
            adjective = "rainy"
        if not adjective:
            return subject
        if self.spec.rain and self.spec.time == "night" and self.chance(0.3):
            self.extras.append(self.pick("rainy night", "a rainy night"))
            self.night_said = True
        elif self.chance(0.35) and subject.startswith("a "):
            return f"a {adjective} {subject[2:]}"
        elif self.chance(0.3):
            return f"{adjective} {subject.removeprefix('a ').removeprefix('the ')}"
        elif self.spec.snow:
            self.extras.append(self.pick("snow", "in the snow", "falling snow", "snowing"))
        else:
            self.extras.append(self.pick("rain", "rain", "in the rain", "raining"))
        return subject

    def _city(self) -> str:
        spec = self.spec
        if not spec.cyberpunk:
            subject = self.pick(*CITY_WORDS)
            if spec.street:
                tails = (" street", " street", " road") if subject != "downtown" else (" street",)
                if self.chance(0.15):
                    return self.pick("a street", "an urban street", "a city street", "a road")
                return subject + self.pick(*tails)
            if self.chance(0.2):
                return self.pick(*TOWERS)
            return subject + self.pick("", " skyline", " skyline")
        # Cyberpunk is a street unless the caption says skyline, and it is always night.
        self.night_said = True
        if self.chance(0.6):
            self.extras.append(self.pick(*NEON_WORDS))
        if not spec.street:
            if self.chance(0.15):
                return self.pick("a neon skyline", "cyberpunk skyscrapers, skyline")
            return self.pick(*CYBERPUNK_WORDS) + " skyline"
        if self.chance(0.2):
            return self.pick(*CYBERPUNK_STREETS)
        return self.pick(*CYBERPUNK_WORDS) + self.pick("", " street", " street")

    def _mountains(self) -> str:
        if self.spec.lake:
            self.extras.append(self.pick("a lake", "lake", "a mountain lake"))
        elif self.chance(0.5):
            self.extras.append(self.pick("pine trees", "trees", "fir trees"))
        if self.spec.snow and self.chance(0.6):
            return self.pick("snowy mountains", "snowy mountains", "snow-capped mountains")
        return self.pick(
            "mountains", "the mountains", "a mountain landscape", "a mountain range", "the alps"
        )

    def _sea(self) -> str:
        if self.spec.lighthouse:
            if self.chance(0.5):
                return self._lighthouse()
            self.extras.append(self.pick("a lighthouse", "lighthouse", "a lighthouse on a rock"))
        if self.spec.boat:
            self.extras.append(self.pick("a sailboat", "a boat", "a sailing boat"))
        if self.spec.beach:
            if self.chance(0.6):
                return self.pick("a beach", "a sandy beach", "a tropical beach", "the beach")
            self.extras.append(self.pick("a sandy beach", "a beach", "sand"))
        return self.pick(
            "the sea", "the sea", "the ocean", "a calm sea", "the open sea", "ocean waves"
        )

    def _lighthouse(self) -> str:
        if self.spec.boat:
            self.extras.append(self.pick("a sailboat", "a boat"))
        if self.spec.beach:
            return self.pick("a lighthouse on a beach", "a lighthouse and a sandy beach")
        return "a lighthouse" + self.pick("", " by the sea", " by the sea", " at the coast")

    def _desert(self) -> str:
        if self.spec.cactuses:
            self.extras.append(self.pick("cactuses", "cacti", "cactus", "a cactus"))
        return self.pick("a desert", "the desert", "sand dunes", "desert dunes", "the sahara")

    def _forest(self) -> str:
        if self.spec.pines:
            return self.pick("a pine forest", "a forest of pine trees", "a fir forest")
        return self.pick("a forest", "the woods", "a forest of trees", "a deep forest", "woodland")

    def _field(self) -> str:
        if self.spec.flowers:
            self.extras.append(self.spec.flowers + " flowers")
        if self.spec.tree:
            self.extras.append(self.pick("a tree", "a lonely tree"))
            if self.chance(0.3):
                self.extras.pop()
                return self.pick("a lonely tree on a hill", "a tree in a field", "a tree on a hill")
        return self.pick(
            "a green field",
            "a meadow",
            "grassy hills",
            "rolling hills",
            "a field",
            "the countryside",
        )

    def _village(self) -> str:
        village = self.pick("a village", "a village", "a small village", "a little town")
        if self.spec.houses == USUAL_HOUSES and self.chance(0.5):
            return self.pick(village, village, "houses on a hill", "a mountain village")
        return village + self.pick(" with ", " with ", " of ") + self.spec.houses + " houses"
