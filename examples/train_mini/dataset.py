"""The training set of the UNet: latents of rendered pictures, and what they are pictures of."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from captions import caption
from codec import CELL, CHANNELS, PATCH, QUARTER, PatchCodec
from drawing import PALETTE, Size
from object_captions import plain_caption
from presets import Preset
from removal import REMOVABLES, Removable, negative_words, removables_of
from scenery import free_shape
from scenes import render
from specs import (
    USUAL_COLOR,
    ObjectSpec,
    PlaceSpec,
    Spec,
    all_objects,
    moved_objects,
    sample_place,
)

USUAL_SIZE: Size = (1024, 1024)
# The sizes that are trained, width before height, and the share of the steps that see each.
SIZE_SHARES: dict[Size, float] = {
    USUAL_SIZE: 0.64,
    (1152, 896): 0.06,
    (896, 1152): 0.06,
    (1216, 832): 0.06,
    (832, 1216): 0.06,
    (768, 768): 0.06,
    (512, 512): 0.06,
}
FLAT = 0.2  # a cell of which no latent differs by more from a colour is wholly of it
CHANGE = 0.5  # a cell of which no latent differs by more is the same
UNUSUAL_PART = 8  # the other sizes have so many times fewer pictures
OBJECT_COPIES = 3  # of every object in the middle, with other free variables each
# Shares of the three sorts of picture in every batch.
SHARES = {"centred": 0.44, "moved": 0.08, "place": 0.48}
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
RARE_WEIGHT = 3.0  # of places with something that few places have
UNSAID_WEIGHT = 2.5  # of objects whose colour a caption may leave out
# Colours that are soonest mistaken for a neighbour, and what objects in them weigh.
COLOR_WEIGHTS = {"orange": 2.5, "yellow": 1.7, "brown": 2.0, "gray": 1.6, "blue": 1.5, "cyan": 1.2}
HELD_OUT_SEED = 900_000_000  # places with seeds from here on are for evaluation only


@dataclass(frozen=True)
class Picture:
    """A picture that can be rendered."""

    spec: Spec
    free: np.ndarray  # its free variables
    size: Size = USUAL_SIZE
    taken: int | None = None  # which of REMOVABLES is left out, though the specification has it

    def render(self, scale: float = 1.0) -> np.ndarray:
        """Draw it, with `scale` pixels for each unit."""
        spec = self.spec
        if self.taken is not None:
            spec = REMOVABLES[self.taken].take_from(spec)
        return render(spec, self.free, self.size, scale)


def random_free(rng: np.random.Generator, size: Size = USUAL_SIZE) -> np.ndarray:
    """Draw the free variables of a picture, uniform on (0, 1)."""
    return rng.random(free_shape(*size), dtype=np.float32)


def picture_of(spec: Spec, seed: int, size: Size = USUAL_SIZE) -> Picture:
    """Return the picture of a specification whose free variables belong to a seed."""
    return Picture(spec, random_free(np.random.default_rng(seed), size), size)


def place_picture(seed: int, size: Size = USUAL_SIZE) -> Picture:
    """Return the place that belongs to a seed."""
    return picture_of(sample_place(random.Random(seed)), seed, size)


def _removal(seed: int, size: Size) -> tuple[Picture, Picture]:
    """Return a place, and the same with something taken out of it."""
    rng = random.Random(seed)
    while True:
        spec = sample_place(rng)
        if things := removables_of(spec):
            taken = REMOVABLES.index(rng.choice(things))
            whole = picture_of(spec, seed, size)
            return whole, replace(whole, taken=taken)


def training_pictures(preset: Preset, size: Size = USUAL_SIZE) -> list[Picture]:
    """List every picture of one size in the training set."""
    part = 1 if size == USUAL_SIZE else UNUSUAL_PART
    first = 10**7 * list(SIZE_SHARES).index(size)  # of the seeds
    rng = random.Random(first + 1)
    scenes, moved = preset.scenes // part, preset.moved_objects // part
    centred = [spec for spec in all_objects() if not spec.held_out]
    objects = OBJECT_COPIES * centred
    rng.shuffle(objects)
    objects = objects[: min(len(objects) // part, scenes)]
    objects += preset.usual_copies // part * [spec for spec in centred if spec.usual]
    objects += moved_objects(rng, moved)
    pictures = [picture_of(spec, first + k, size) for k, spec in enumerate(objects)]
    pictures += [place_picture(first + 10**6 + k, size) for k in range(scenes)]
    removals = [_removal(first + 2 * 10**6 + k, size) for k in range(scenes // 6)]
    return pictures + [whole for whole, _ in removals] + [part for _, part in removals]


def held_out_pictures(count: int, size: Size = USUAL_SIZE) -> list[Picture]:
    """List pictures that no stage trains on: half objects, half places."""
    objects = [spec for spec in all_objects() if spec.held_out]
    random.Random(2).shuffle(objects)
    pictures = [
        picture_of(objects[k % len(objects)], HELD_OUT_SEED + k, size) for k in range(count // 2)
    ]
    return pictures + [place_picture(HELD_OUT_SEED + k, size) for k in range(count - count // 2)]


def render_all(pictures: list[Picture], processes: int) -> Iterator[np.ndarray]:
    """Render pictures at a quarter in several processes, in order."""
    work = partial(Picture.render, scale=QUARTER)
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        yield from pool.map(work, pictures, chunksize=32)


def _file(folder: Path, size: Size) -> Path:
    return folder / f"latents-{size[0]}x{size[1]}.npy"


def write_dataset(folder: Path, preset: Preset, codec: PatchCodec, processes: int) -> None:
    """Render the training set and write its latents (float16) and specifications."""
    pictures = {size: training_pictures(preset, size) for size in SIZE_SHARES}
    with (folder / "pictures.pkl").open("wb") as file:
        pickle.dump(pictures, file)
    for size, wanted in pictures.items():
        shape = (len(wanted), CHANNELS, size[1] // CELL, size[0] // CELL)
        latents = np.lib.format.open_memmap(_file(folder, size), "w+", np.float16, shape)
        batch: list[np.ndarray] = []
        done = 0
        for k, picture in enumerate(render_all(wanted, processes), start=1):
            batch.append(picture)
            if len(batch) == 256 or k == len(wanted):
                latents[done:k] = codec.encode(np.stack(batch)).half().numpy()
                batch, done = [], k
        latents.flush()
        print(f"data: {done} pictures of {size[0]} x {size[1]}", flush=True)


@dataclass
class Batch:
    """What one step trains on."""

    latents: torch.Tensor  # (n, 16, h, w)
    free: torch.Tensor  # (n, 2, rows, columns)
    captions: list[str]
    negatives: list[str]  # negative prompts, where guidance is trained
    changed: torch.Tensor  # (n, 1, h, w): 1 in the cells that the negative prompt changes
    flat: torch.Tensor  # (n, 1, h, w): 1 in the cells that are wholly of an object's colour


class Dataset:
    """Draws batches from what `write_dataset` wrote."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Open the files; processes share the latents through the page cache."""
        with (folder / "pictures.pkl").open("rb") as file:  # a file that we wrote ourselves
            self.pictures: dict[Size, list[Picture]] = pickle.load(file)
        self.latents = {size: np.load(_file(folder, size), mmap_mode="r") for size in self.pictures}
        codec = PatchCodec.load(folder / "codec.npz")
        self.flat = {
            name: codec.encode(np.full((1, PATCH, PATCH, 3), color, np.uint8))[0]
            for name, color in PALETTE.items()
        }
        self.rng = random.Random(seed)
        self.np_rng = np.random.default_rng(seed)
        self.cumulative = {size: self._cumulative(size) for size in self.pictures}
        # Of each size, and by what was taken out: the places out of which something was taken.
        self.removals: dict[Size, dict[int, list[int]]] = {size: {} for size in self.pictures}
        for size, pictures in self.pictures.items():
            for k, picture in enumerate(pictures):
                if picture.taken is not None:
                    self.removals[size].setdefault(picture.taken, []).append(k)

    def _cumulative(self, size: Size) -> np.ndarray:
        weights = np.array([_weight(picture.spec) for picture in self.pictures[size]])
        sorts = np.array([_sort(picture) for picture in self.pictures[size]])
        for sort, share in SHARES.items():
            chosen = sorts == sort
            weights[chosen] *= share / weights[chosen].sum()
        weights[sorts == "removal"] = 0
        return np.cumsum(weights / weights.sum())

    def draw_size(self) -> Size:
        """Choose the size of the next batch."""
        return self.rng.choices(list(SIZE_SHARES), list(SIZE_SHARES.values()))[0]

    def _chosen(self, size: Size, count: int) -> list[int]:
        chosen = np.searchsorted(self.cumulative[size], self.np_rng.random(count))
        return np.minimum(chosen, len(self.pictures[size]) - 1).tolist()

    def _batch(self, size: Size, chosen: list[int], negatives: list[str]) -> Batch:
        pictures = [self.pictures[size][k] for k in chosen]
        # A place out of which something was taken comes as far behind the whole place as there
        # are such places; see `training_pictures`.
        back = sum(map(len, self.removals[size].values()))
        wholes = [k - back * (self.pictures[size][k].taken is not None) for k in chosen]
        latents = torch.from_numpy(self.latents[size][chosen]).float()
        whole = torch.from_numpy(self.latents[size][wholes]).float()
        return Batch(
            latents,
            torch.from_numpy(np.stack([picture.free for picture in pictures])),
            [caption(picture.spec, self.rng, hard=True) for picture in pictures],
            negatives,
            ((latents - whole).abs().amax(1, keepdim=True) > CHANGE).float(),
            self._flat_cells([picture.spec for picture in pictures], latents),
        )

    def _flat_cells(self, specs: list[Spec], latents: torch.Tensor) -> torch.Tensor:
        """Mark the cells that are wholly of an object's colour; a place has none."""
        cells = torch.zeros(len(latents), 1, *latents.shape[2:])
        for k, spec in enumerate(specs):
            if isinstance(spec, ObjectSpec):
                away = (latents[k] - self.flat[spec.color]).abs().amax(0)
                cells[k, 0] = (away < FLAT).float()
        return cells

    def draw(self, size: Size, count: int) -> Batch:
        """Draw pictures and write fresh captions for them."""
        return self._batch(size, self._chosen(size, count), [])

    def draw_wordings(self, count: int) -> tuple[list[str], list[str]]:
        """Draw captions of objects, and the plainest ones of the same."""
        size = USUAL_SIZE
        pictures = (self.pictures[size][k] for k in self._chosen(size, 3 * count))
        specs = [p.spec for p in pictures if isinstance(p.spec, ObjectSpec)][:count]
        said = [caption(spec, self.rng, hard=True) for spec in specs]
        return said, [plain_caption(spec) for spec in specs]

    def draw_guided(self, size: Size, count: int) -> Batch:
        """Draw pictures with negative prompts; two in three name something that is taken out."""
        chosen = self._chosen(size, count)
        negatives = []
        for k in range(count):
            if k % 3:
                taken = self.rng.choice(list(self.removals[size]))  # rare things as often
                chosen[k] = self.rng.choice(self.removals[size][taken])
                thing = REMOVABLES[taken]
            else:
                thing = self._absent(self.pictures[size][chosen[k]].spec)
            negatives.append(negative_words(thing, self.rng))
        return self._batch(size, chosen, negatives)

    def _absent(self, spec: Spec) -> Removable | None:
        """Choose something that a picture does not show, or nothing."""
        thing = self.rng.choice(REMOVABLES)
        if self.rng.random() < 0.6 or (isinstance(spec, PlaceSpec) and thing.shown(spec)):
            return None
        return thing


def _sort(picture: Picture) -> str:
    spec = picture.spec
    if isinstance(spec, PlaceSpec):
        return "place" if picture.taken is None else "removal"
    return "moved" if spec.side or spec.size else "centred"


def _weight(spec: Spec) -> float:
    if isinstance(spec, ObjectSpec):
        unsaid = UNSAID_WEIGHT if spec.color == USUAL_COLOR[spec.kind] else 1.0
        return unsaid * COLOR_WEIGHTS.get(spec.color, 1.0)
    rare = spec.rain or spec.rainbow or spec.aurora or spec.lighthouse
    return PLACE_WEIGHTS[spec.place] * (RARE_WEIGHT if rare else 1.0)
