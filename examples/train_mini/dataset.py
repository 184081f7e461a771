"""The training set of the UNet: latents of rendered pictures, and what they are pictures of."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from captions import caption
from codec import PIXELS, PatchCodec
from presets import Preset
from scenery import FREE_SHAPE
from scenes import render
from specs import ObjectSpec, PlaceSpec, Spec, all_objects, moved_objects, sample_place

# Shares of the three sorts of picture in every batch.
SHARES = {"centred": 0.32, "moved": 0.14, "place": 0.54}
# Places of which a training step sees more or less than the renderer draws: what is learnt early
# (towers, sand) makes room for what is learnt late (peaks, trees, boats).
PLACE_WEIGHTS = {
    "city": 0.7,
    "mountains": 1.7,
    "sea": 1.2,
    "desert": 0.8,
    "forest": 1.2,
    "field": 1.3,
    "village": 0.9,
}
HELD_OUT_SEED = 900_000_000  # places with seeds from here on are for evaluation only

Picture = tuple[Spec, np.ndarray]  # a specification and its free variables


def random_free(rng: np.random.Generator) -> np.ndarray:
    """Draw free variables, uniform on (0, 1)."""
    return rng.random(FREE_SHAPE, dtype=np.float32)


def place_picture(seed: int) -> Picture:
    """Return the place that belongs to a seed."""
    return sample_place(random.Random(seed)), random_free(np.random.default_rng(seed))


def object_picture(spec: ObjectSpec, seed: int) -> Picture:
    """Return an object; nothing about it is left open, so the variables move nothing."""
    return spec, random_free(np.random.default_rng(seed))


def training_pictures(preset: Preset) -> list[Picture]:
    """List every picture of the training set."""
    centred = [spec for spec in all_objects() if not spec.held_out]
    if preset.scenes < len(centred):  # a smoke test
        centred = centred[:: len(centred) // preset.scenes]
    objects = centred + moved_objects(random.Random(1), preset.moved_objects)
    pictures = [object_picture(spec, k) for k, spec in enumerate(objects)]
    return pictures + [place_picture(1_000 + k) for k in range(preset.scenes)]


def held_out_pictures(count: int) -> list[Picture]:
    """List pictures that no stage trains on: half objects, half places."""
    objects = [spec for spec in all_objects() if spec.held_out]
    random.Random(2).shuffle(objects)
    pictures = [
        object_picture(objects[k % len(objects)], HELD_OUT_SEED + k) for k in range(count // 2)
    ]
    return pictures + [place_picture(HELD_OUT_SEED + k) for k in range(count - count // 2)]


def _render_picture(picture: Picture, pixels: int) -> np.ndarray:
    return render(*picture, pixels)


def render_all(pictures: list[Picture], processes: int, pixels: int = PIXELS) -> Iterator:
    """Render pictures in several processes, in order."""
    work = partial(_render_picture, pixels=pixels)
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        yield from pool.map(work, pictures, chunksize=32)


def write_dataset(folder: Path, preset: Preset, codec: PatchCodec, processes: int) -> None:
    """Render the training set and write its latents (float16) and specifications."""
    pictures = training_pictures(preset)
    count = len(pictures)
    latents = np.lib.format.open_memmap(
        folder / "latents.npy", mode="w+", dtype=np.float16, shape=(count, 16, 32, 32)
    )
    batch: list[np.ndarray] = []
    done = 0
    for k, picture in enumerate(render_all(pictures, processes), start=1):
        batch.append(picture)
        if len(batch) == 256 or k == count:
            latents[done:k] = codec.encode(np.stack(batch)).half().numpy()
            batch, done = [], k
            if k % (256 * 20) == 0:
                print(f"data: {k}/{count} pictures", flush=True)
    latents.flush()
    with (folder / "pictures.pkl").open("wb") as file:
        pickle.dump(pictures, file)


class Dataset:
    """Draws batches from what `write_dataset` wrote."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Open the files; processes share the latents through the page cache."""
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        with (folder / "pictures.pkl").open("rb") as file:  # a file that we wrote ourselves
            self.pictures: list[Picture] = pickle.load(file)
        self.rng = random.Random(seed)
        self.np_rng = np.random.default_rng(seed)
        weights = np.array([self._weight(spec) for spec, _ in self.pictures])
        sorts = np.array([self._sort(spec) for spec, _ in self.pictures])
        for sort, share in SHARES.items():
            chosen = sorts == sort
            weights[chosen] *= share / weights[chosen].sum()
        self.cumulative = np.cumsum(weights / weights.sum())

    @staticmethod
    def _sort(spec: Spec) -> str:
        if isinstance(spec, PlaceSpec):
            return "place"
        return "moved" if spec.side or spec.size else "centred"

    @staticmethod
    def _weight(spec: Spec) -> float:
        return PLACE_WEIGHTS[spec.place] if isinstance(spec, PlaceSpec) else 1.0

    def draw(self, count: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Draw latents (n, 16, 32, 32), free variables (n, 2, 8, 8) and fresh captions."""
        chosen = np.searchsorted(self.cumulative, self.np_rng.random(count))
        chosen = np.minimum(chosen, len(self.pictures) - 1)
        latents = torch.from_numpy(self.latents[chosen]).float()
        specs = [self.pictures[k][0] for k in chosen]
        # The variables of an object move nothing: draw them anew, so that they teach nothing.
        free = np.stack(
            [
                random_free(self.np_rng) if isinstance(spec, ObjectSpec) else self.pictures[k][1]
                for spec, k in zip(specs, chosen, strict=True)
            ]
        )
        return latents, torch.from_numpy(free), [caption(spec, self.rng) for spec in specs]
