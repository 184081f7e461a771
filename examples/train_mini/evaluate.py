"""Measures an exported pipeline on captions and pictures that no training stage has seen.

For each held-out picture the pipeline gets a caption of it, and noise into which the picture's free
variables are written: the picture that the renderer draws is the one right answer. Colours are read
where the renderer's picture has plain background or plain object. Subjects and times of day are
named by a classifier that has learnt from renders alone (`judge.py`). A negative prompt has removed
its subject if the picture is nearer to the renderer's without it than to the one with it, where the
two differ. No figure here says whether a picture is pretty.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from artist import coupled_noise, draw, load_pipeline
from captions import caption
from dataset import HELD_OUT_SEED, SIZE_SHARES, Picture, held_out_pictures, picture_of
from drawing import PALETTE, Size
from judge import STEPS, Judge, load_judge, subject_of
from removal import REMOVABLES, negative_words, removables_of
from specs import PlaceSpec, sample_place

NEIGHBOURHOOD = 20  # px around a place that is measured
EDGE = 64  # px from the border: always background
GUIDANCE = 3.0
KINDS_AND_TIMES = ("object_kind_right", "scene_kind_right", "time_of_day_right")
SAME_PROMPTS = (
    "a cyberpunk city at night",
    "mountains at sunset",
    "a red heart on a blue background",
)

Draw = Callable[..., list[np.ndarray]]


def nearest_color(picture: np.ndarray, x: int, y: int) -> str:
    """Name the palette colour nearest to the mean colour around a place."""
    r = NEIGHBOURHOOD
    mean = picture[y - r : y + r, x - r : x + r].reshape(-1, 3).astype(float).mean(0)
    return min(PALETTE, key=lambda name: float(np.square(mean - PALETTE[name]).sum()))


def plain_places(truth: np.ndarray, color: str) -> list[tuple[int, int]]:
    """List places in the renderer's picture where an area has the object's plain colour."""
    wanted, r = np.array(PALETTE[color], float), NEIGHBOURHOOD
    height, width, _ = truth.shape
    return [
        (x, y)
        for y in range(r, height - r, 32)
        for x in range(r, width - r, 32)
        if np.abs(truth[y - r : y + r, x - r : x + r] - wanted).max() < 8
    ]


def has_color(picture: np.ndarray, truth: np.ndarray, color: str) -> bool | None:
    """Tell whether most places that shall have an object's colour do; None if there are none."""
    names = [nearest_color(picture, x, y) for x, y in plain_places(truth, color)]
    return names.count(color) * 2 > len(names) if names else None


def has_background(picture: np.ndarray, color: str) -> bool:
    """Tell whether three of the four corners have the background's colour."""
    height, width, _ = picture.shape
    corners = [(x, y) for x in (EDGE, width - EDGE) for y in (EDGE, height - EDGE)]
    return [nearest_color(picture, x, y) for x, y in corners].count(color) >= 3


def share(hits: list[bool | None]) -> float | None:
    """Return the share of hits in per cent; what could not be told does not count."""
    told = [hit for hit in hits if hit is not None]
    return round(100 * sum(told) / len(told), 1) if told else None


def psnr(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Return how near pictures are to the renderer's, in dB."""
    errors = [np.square(drawn.astype(float) - truth).mean() for drawn, truth in pairs]
    return round(10 * math.log10(255**2 / max(1e-9, np.mean(errors))), 2) if errors else None


def binding(
    pictures: list[Picture], drawn: list[np.ndarray], judge: Judge
) -> dict[str, float | None]:
    """Say how much of what captions state is right, in per cent, and how near the pictures are."""
    named = judge.name(drawn)
    truths = [picture.render() for picture in pictures]
    objects, places = [], []
    colors, backgrounds, kinds, scenes, hours = [], [], [], [], []
    for picture, image, truth, (subject, hour) in zip(pictures, drawn, truths, named, strict=True):
        spec = picture.spec
        if isinstance(spec, PlaceSpec):
            places.append((image, truth))
            scenes.append(subject == subject_of(spec))
            hours.append(hour == spec.time)
            continue
        objects.append((image, truth))
        backgrounds.append(has_background(image, spec.background))
        kinds.append(subject == spec.kind)
        colors.append(has_color(image, truth, spec.color))
    return {
        "object_color_right": share(colors),
        "background_color_right": share(backgrounds),
        "object_kind_right": share(kinds),
        "scene_kind_right": share(scenes),
        "time_of_day_right": share(hours),
        "psnr_objects_db": psnr(objects),
        "psnr_places_db": psnr(places),
    }


def draw_pictures(paint: Draw, pictures: list[Picture], steps: int, **guided) -> list[np.ndarray]:
    """Draw captions of some pictures of one size, from noise that stands for them."""
    rng = random.Random(11)
    captions = [caption(picture.spec, rng) for picture in pictures]
    noise = torch.cat([coupled_noise(picture, k) for k, picture in enumerate(pictures)])
    return paint(captions, noise, steps, **guided)


def measure_steps(paint: Draw, judge: Judge, count: int, steps: int) -> dict[str, float | None]:
    """Measure single objects and places at the usual size."""
    pictures, since = held_out_pictures(2 * count), time.time()
    drawn = draw_pictures(paint, pictures, steps)
    seconds = round((time.time() - since) / len(pictures), 2)
    return binding(pictures, drawn, judge) | {"seconds_per_picture": seconds}


def read_size(words: str) -> Size:
    """Read a size such as 1152x896: width before height."""
    width, height = words.split("x")
    return int(width), int(height)


def measure_size(paint: Draw, judge: Judge, count: int, size: Size) -> dict[str, float | None]:
    """Measure single objects and places at another size."""
    pictures = held_out_pictures(count, size)
    return binding(pictures, draw_pictures(paint, pictures, 4), judge)


def shows(image: np.ndarray, picture: Picture) -> bool:
    """Tell whether an image shows what `picture.taken` names, rather than the place without it."""
    without = picture.render().astype(float)
    present = replace(picture, taken=None).render().astype(float)
    differs = np.abs(present - without).max(2) > 24
    errors = [np.square(image[differs] - truth[differs]).mean() for truth in (present, without)]
    return errors[0] < errors[1]


def measure_negatives(paint: Draw, judge: Judge, count: int) -> dict[str, object]:
    """Measure guidance with negative prompts that name something, and with an empty one."""
    rng = random.Random(HELD_OUT_SEED + 7)
    pictures: list[Picture] = []
    while len(pictures) < count:
        spec = sample_place(rng)
        # Each thing in its turn, so that rare ones count as much.
        taken = len(pictures) % len(REMOVABLES)
        if REMOVABLES[taken] in removables_of(spec):
            picture = picture_of(spec, HELD_OUT_SEED + 10**6 + len(pictures))
            pictures.append(replace(picture, taken=taken))
    negatives = [negative_words(REMOVABLES[picture.taken], rng) for picture in pictures]
    before = draw_pictures(paint, pictures, 4)
    after = draw_pictures(paint, pictures, 4, guidance=GUIDANCE, negatives=negatives)
    shown = [shows(image, picture) for image, picture in zip(before, pictures, strict=True)]
    gone = [
        not shows(image, picture) if there else None
        for image, picture, there in zip(after, pictures, shown, strict=True)
    ]
    by_word = {
        thing.words[0]: share(gone[k :: len(REMOVABLES)]) for k, thing in enumerate(REMOVABLES)
    }
    empty = held_out_pictures(count // 2)
    told = binding(empty, draw_pictures(paint, empty, 4, guidance=GUIDANCE), judge)
    return {
        "shown_without": share(shown),
        "removed": share(gone),
        "removed_by_word": by_word,
        "empty_negative": told,
    }


def measure_seeds(paint: Draw, count: int) -> dict[str, float]:
    """Return how much pictures of one prompt differ between seeds: levels of 255, the mean."""
    told = {}
    for prompt in SAME_PROMPTS:
        noise = torch.cat(
            [
                torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(k))
                for k in range(count)
            ]
        )
        images = [image.astype(float) for image in paint([prompt] * count, noise, 4)]
        pairs = [float(np.abs(a - b).mean()) for a, b in combinations(images, 2)]
        told[prompt] = round(sum(pairs) / len(pairs), 1)
    return told


def main() -> None:
    """Read the command line, draw, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipeline", type=Path, help="an exported pipeline folder")
    parser.add_argument("--count", type=int, default=60, help="objects, and as many places")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 25])
    others = [f"{width}x{height}" for width, height in list(SIZE_SHARES)[1:]]
    parser.add_argument("--sizes", nargs="*", default=others, help="sizes beside the usual one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--judge", type=Path, help="where the classifier is kept, once trained")
    parser.add_argument("--judge-steps", type=int, default=STEPS, help="how long it is trained")
    options = parser.parse_args()
    count = options.count
    judge = load_judge(options.judge, options.judge_steps)
    pipeline = load_pipeline(options.pipeline, getattr(torch, options.dtype))

    def paint(*arguments, **guided) -> list[np.ndarray]:
        return draw(pipeline, *arguments, **guided)

    fresh = held_out_pictures(8 * count)
    sure = binding(fresh, [picture.render() for picture in fresh], judge)
    results = {
        "objects_and_places_each": count,
        "classifier_on_renders": {name: sure[name] for name in KINDS_AND_TIMES},
        "steps": {str(k): measure_steps(paint, judge, count, k) for k in options.steps},
        "guidance_3": measure_negatives(paint, judge, 2 * count),
        "seeds": measure_seeds(paint, max(2, count // 10)),
        "sizes": {
            size: measure_size(paint, judge, max(2, 4 * count // 5), read_size(size))
            for size in options.sizes
        },
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
