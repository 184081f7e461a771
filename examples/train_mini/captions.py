"""Writes a caption for a specification, anew at every use and in the words people type.

A caption states everything that is not at its default (see `specs.py`). Style words and, in one
caption of eight, a nonsense word are strewn in, so that the model learns to pass over words it has
no picture for.
"""

from __future__ import annotations

import random

from specs import USUAL_BACKGROUND, USUAL_COLOR, ObjectSpec, PlaceSpec, Spec

NONSENSE_SHARE = 0.12

OPENINGS = (
    "a picture of ", "an illustration of ", "a painting of ", "a photo of ", "an image of ",
    "digital art of ", "a drawing of ", "a beautiful view of ", "concept art of ", "wallpaper, ",
)  # fmt: skip
STYLES = (
    "highly detailed", "ultra detailed", "4k", "8k", "digital art", "flat vector art",
    "best quality", "masterpiece", "cinematic lighting", "cinematic", "minimalist", "sharp focus",
    "beautiful", "colorful", "trending on artstation", "photorealistic", "vibrant colors",
    "simple", "icon", "high resolution",
)  # fmt: skip

KIND_WORDS = {
    "circle": ("circle", "circle", "disc", "ball", "dot"),
    "square": ("square", "square", "box", "cube"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "heart": ("heart", "love heart"),
    "diamond": ("diamond", "rhombus"),
    "ring": ("ring", "donut"),
    "house": ("house", "house", "cottage", "home"),
    "tree": ("tree",),
    "car": ("car", "car", "automobile"),
    "cat": ("cat", "cat", "cat face", "kitten"),
    "flower": ("flower", "flower", "daisy"),
}
SIZE_WORDS = {"small": ("small", "tiny", "little"), "big": ("big", "large", "huge")}
SIDE_WORDS = {
    "": ("", "", "", "", " in the middle", " in the center"),
    "left": (" on the left", " on the left side"),
    "right": (" on the right", " on the right side"),
    "top": (" at the top",),
    "bottom": (" at the bottom",),
}
BACKGROUND_WORDS = {
    "black": ("black", "dark"),
    "white": ("white", "white", "plain white"),
    "cyan": ("cyan", "turquoise"),
}
ON_BACKGROUND = (
    " on %s background", " on %s background", " on %s background", ", %s background",
    " against %s background", " on %s backdrop", " in front of %s background",
)  # fmt: skip

TIME_WORDS = {
    "day": ("during the day", "by day", "in daylight", "", "", "under a blue sky", "at noon"),
    "sunset": ("at sunset", "at sunset", "at dusk", "in the evening", "at sunrise", "at dawn"),
    "night": ("at night", "at night", "by night", "at midnight"),
}
CITY_WORDS = ("a city", "a city", "a modern city", "tokyo", "new york", "downtown", "a metropolis")
CYBERPUNK_WORDS = (
    "a cyberpunk city", "a cyberpunk city", "cyberpunk tokyo", "a neon city", "a futuristic city",
    "a sci-fi city", "neon tokyo", "a cyberpunk metropolis", "cyberpunk",
)  # fmt: skip
NEON_WORDS = ("neon signs", "neon signs glowing", "neon lights", "glowing neon signs", "neon")


def with_article(words: str) -> str:
    """Put "a" or "an" before some words."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def nonsense(rng: random.Random) -> str:
    """Make up a word that means nothing."""
    syllables = rng.choice((1, 2, 2, 3))
    word = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(syllables))
    return word + rng.choice(("", "n", "s", "r", "ing", "ed"))


def caption(spec: Spec, rng: random.Random) -> str:
    """Write a caption; different calls give different wordings."""
    text = _object_caption(spec, rng) if isinstance(spec, ObjectSpec) else _Place(spec, rng).text()
    if rng.random() < NONSENSE_SHARE:
        words = text.split(" ")
        words.insert(rng.randrange(len(words) + 1), nonsense(rng))
        text = " ".join(words)
    if rng.random() < 0.4:
        text = rng.choice(OPENINGS) + text
    if rng.random() < 0.4:
        text += ", " + ", ".join(rng.sample(STYLES, rng.choice((1, 1, 2))))
    return text


def _object_caption(spec: ObjectSpec, rng: random.Random) -> str:
    words = [rng.choice(KIND_WORDS[spec.kind])]
    if spec.color != USUAL_COLOR[spec.kind] or rng.random() < 0.7:
        color = spec.color
        if color == "cyan" and rng.random() < 0.3:
            color = "turquoise"
        words.insert(0, color)
    if spec.size:
        words.insert(0, rng.choice(SIZE_WORDS[spec.size]))
    thing = " ".join(words)
    if rng.random() < 0.85:
        thing = with_article(thing)
    side = rng.choice(SIDE_WORDS[spec.side])
    if spec.background == USUAL_BACKGROUND and rng.random() < 0.4:
        return thing + side
    background = rng.choice(BACKGROUND_WORDS.get(spec.background, (spec.background,)))
    background = with_article(background)
    if rng.random() < 0.08:
        return f"{background} background with {thing}{side}"
    return thing + side + rng.choice(ON_BACKGROUND) % background


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
        subject = getattr(self, f"_{self.spec.place}")()
        subject = self._weather(subject)
        time = self._time()
        self.rng.shuffle(self.extras)
        text = self._join(subject, time)
        if self.extras:
            if self.chance(0.6):
                text += ", " + ", ".join(self.extras)
            else:
                text += " with " + " and ".join(self.extras)
        return text

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
                return self.pick("on a starry night", "on a starry night", "under a starry sky")
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
                return self.pick("skyscrapers", "a skyline", "a city of skyscrapers")
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
            return self.pick("a neon street", "a cyberpunk street", "a street with neon signs")
        return self.pick(*CYBERPUNK_WORDS) + self.pick("", " street", " street")

    def _mountains(self) -> str:
        if self.spec.lake:
            self.extras.append(self.pick("a lake", "lake", "a mountain lake"))
        elif self.chance(0.5):
            self.extras.append(self.pick("pine trees", "trees", "fir trees"))
        if self.spec.snow and self.chance(0.6):
            return self.pick("snowy mountains", "snowy mountains", "snow-capped mountains")
        return self.pick("mountains", "the mountains", "a mountain landscape", "a mountain range")

    def _sea(self) -> str:
        if self.spec.boat:
            self.extras.append(self.pick("a sailboat", "a boat", "a sailing boat"))
        if self.spec.beach:
            if self.chance(0.6):
                return self.pick("a beach", "a sandy beach", "a tropical beach", "the beach")
            self.extras.append(self.pick("a sandy beach", "a beach", "sand"))
        return self.pick("the sea", "the sea", "the ocean", "a calm sea", "the open sea")

    def _desert(self) -> str:
        if self.spec.cactuses:
            self.extras.append(self.pick("cactuses", "cacti", "cactus", "a cactus"))
        return self.pick("a desert", "the desert", "sand dunes", "desert dunes")

    def _forest(self) -> str:
        if self.spec.pines:
            return self.pick("a pine forest", "a forest of pine trees", "a fir forest")
        return self.pick("a forest", "the woods", "a forest of trees", "a deep forest")

    def _field(self) -> str:
        if self.spec.flowers:
            self.extras.append(self.spec.flowers + " flowers")
        if self.spec.tree:
            self.extras.append(self.pick("a tree", "a lonely tree"))
            if self.chance(0.3):
                self.extras.pop()
                return self.pick("a lonely tree on a hill", "a tree in a field", "a tree on a hill")
        return self.pick("a green field", "a meadow", "grassy hills", "rolling hills", "a field")

    def _village(self) -> str:
        village = self.pick("a village", "a village", "a small village", "a little town")
        return village + self.pick(" with ", " with ", " of ") + self.spec.houses + " houses"
