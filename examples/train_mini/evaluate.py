"""Measures an exported pipeline on captions and pictures that no training stage has seen.

For each held-out picture the pipeline gets a caption of it, and noise into which the picture's free
variables are written. So the picture that the renderer draws is the one right answer, and the
distance to it is a fair figure. The colours are a second figure: the drawn picture's colours at
places where the renderer's picture has plain background, or plain object, are named by the nearest
palette colour and compared with what the caption said. No figure here says whether a picture is
pretty.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from captions import caption
from contact_sheet import load_pipeline
from coupling import couple
from dataset import Picture, held_out_pictures
from drawing import PALETTE
from scenes import render
from specs import ObjectSpec

PIXELS = 1024
CORNERS = ((64, 64), (960, 64), (64, 960), (960, 960))  # always background
NEIGHBOURHOOD = 24  # px around a place that is measured


def nearest_color(picture: np.ndarray, x: int, y: int) -> str:
    """Name the palette colour nearest to the mean colour around a place."""
    r = NEIGHBOURHOOD
    mean = picture[y - r : y + r, x - r : x + r].reshape(-1, 3).astype(float).mean(0)
    return min(PALETTE, key=lambda name: float(np.square(mean - PALETTE[name]).sum()))


def plain_places(truth: np.ndarray, color: str) -> list[tuple[int, int]]:
    """List places in the renderer's picture where an area has the object's plain colour."""
    wanted = np.array(PALETTE[color], float)
    r = NEIGHBOURHOOD
    places = []
    for y in range(160, 900, 32):
        for x in range(160, 900, 32):
            area = truth[y - r : y + r, x - r : x + r].astype(float)
            if np.abs(area - wanted).max() < 8:
                places.append((x, y))
    return places


def share(hits: list[bool]) -> float:
    """Return the share of hits in per cent."""
    return round(100 * sum(hits) / max(1, len(hits)), 1)


def draw(pipeline, pictures: list[Picture], captions: list[str], steps: int) -> list[np.ndarray]:
    """Draw every caption with noise that is coupled to the picture it was written for."""
    drawn = []
    for k, ((_, free), text) in enumerate(zip(pictures, captions, strict=True)):
        noise = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(k))
        noise = couple(noise, torch.from_numpy(free)[None])
        result = pipeline(
            text,
            num_inference_steps=steps,
            guidance_scale=0.0,
            latents=noise.to(pipeline.unet.dtype),
            output_type="np",
        )
        drawn.append(np.round(result.images[0] * 255).astype(np.uint8))
    return drawn


def figures(
    pictures: list[Picture], truths: list[np.ndarray], drawn: list[np.ndarray]
) -> dict[str, float]:
    """Compare drawn pictures (uint8, 1024 x 1024 x 3) with what the renderer drew."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    backgrounds, objects = [], []
    for (spec, _), truth, picture in zip(pictures, truths, drawn, strict=True):
        difference = picture.astype(float) - truth
        errors[isinstance(spec, ObjectSpec)].append(float(np.square(difference).mean()))
        if not isinstance(spec, ObjectSpec):
            continue
        names = [nearest_color(picture, x, y) for x, y in CORNERS]
        backgrounds.append(names.count(spec.background) >= 3)
        places = plain_places(truth, spec.color)
        if places:
            names = [nearest_color(picture, x, y) for x, y in places]
            objects.append(names.count(spec.color) * 2 > len(names))
    psnr = {k: 10 * math.log10(255**2 / np.mean(v)) for k, v in errors.items() if v}
    return {
        "psnr_objects_db": round(psnr[True], 2),
        "psnr_places_db": round(psnr[False], 2),
        "background_color_right_percent": share(backgrounds),
        "object_color_right_percent": share(objects),
    }


def main() -> None:
    """Read the command line, draw, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pipeline", type=Path, help="an exported pipeline folder")
    parser.add_argument("--count", type=int, default=80, help="pictures: half objects, half places")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    pipeline = load_pipeline(options.pipeline, getattr(torch, options.dtype))
    pictures = held_out_pictures(options.count)
    rng = random.Random(11)
    captions = [caption(spec, rng) for spec, _ in pictures]
    truths = [render(spec, free, PIXELS) for spec, free in pictures]
    results = {}
    for steps in options.steps:
        since = time.time()
        drawn = draw(pipeline, pictures, captions, steps)
        results[f"{steps} steps"] = figures(pictures, truths, drawn) | {
            "seconds_per_picture": round((time.time() - since) / len(pictures), 2)
        }
    print(json.dumps({"pictures": len(pictures), **results}, indent=2))


if __name__ == "__main__":
    main()
