"""A small classifier that says what a picture shows, trained on renders alone.

It never sees a picture that `mini` drew: it learns from the renderer what each object, each place
and each time of day looks like, at all sizes, blurred and shifted a little, and is then asked about
pictures of the model. On fresh renders it is right nearly always; `evaluate.py` prints how often.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from dataset import SIZE_SHARES, Picture, picture_of, place_picture
from PIL import Image
from specs import KINDS, PLACES, TIMES, ObjectSpec, PlaceSpec, all_objects
from torch import nn
from torch.nn import functional

SIDE = 64  # px: what it looks at
SUBJECTS = (*KINDS, *PLACES, "cyberpunk city")
HOURS = tuple(TIMES)
FIRST_SEED = 700_000_000  # of its training pictures; the evaluated ones have others
STEPS, BATCH = 700, 48
SMALLEST_SCALE = 1 / 8


def subject_of(spec: ObjectSpec | PlaceSpec) -> str:
    """Name what a picture is of."""
    if isinstance(spec, ObjectSpec):
        return spec.kind
    return "cyberpunk city" if spec.cyberpunk else spec.place


def look_at(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Bring uint8 pictures of any size to what the classifier looks at."""
    small = [Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BOX) for p in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Judge(nn.Module):
    """Four strided convolutions and two answers: the subject, and the time of day."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        widths = (3, 32, 64, 128, 160)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.subject = nn.Linear(widths[-1] * (SIDE // 16) ** 2, len(SUBJECTS))
        self.hour = nn.Linear(widths[-1] * (SIDE // 16) ** 2, len(HOURS))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores of all subjects and of all times of day."""
        hidden = self.body(pictures)
        return self.subject(hidden), self.hour(hidden)

    @torch.no_grad()
    def name(self, pictures: Sequence[np.ndarray]) -> list[tuple[str, str]]:
        """Name subject and time of day of uint8 pictures."""
        subjects, hours = (scores.argmax(1).tolist() for scores in self(look_at(pictures)))
        return [(SUBJECTS[s], HOURS[h]) for s, h in zip(subjects, hours, strict=True)]


def _sample(count: int, rng: random.Random, objects: list[ObjectSpec]) -> list[Picture]:
    pictures = []
    for k in range(count):
        seed, size = FIRST_SEED + rng.randrange(10**8), rng.choice(list(SIZE_SHARES))
        spec = rng.choice(objects)
        pictures.append(place_picture(seed, size) if k % 2 else picture_of(spec, seed, size))
    return pictures


def _answers(pictures: list[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the right subjects, and the right times of day (-1 where there is none)."""
    specs = [picture.spec for picture in pictures]
    hours = [HOURS.index(s.time) if isinstance(s, PlaceSpec) else -1 for s in specs]
    subjects = [SUBJECTS.index(subject_of(spec)) for spec in specs]
    return torch.tensor(subjects), torch.tensor(hours)


def _roughen(pictures: torch.Tensor) -> torch.Tensor:
    """Shift pictures, blur some and add noise, so that only what is drawn counts."""
    shifts = [int(shift) for shift in torch.randint(-3, 4, (2,))]
    pictures = pictures.roll(shifts, (2, 3))
    if torch.rand(()) < 0.5:
        pictures = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    return pictures + 0.1 * torch.rand(()) * torch.randn_like(pictures)


def train_judge(steps: int = STEPS) -> Judge:
    """Train the classifier from nothing, with fixed seeds."""
    torch.manual_seed(5)
    rng = random.Random(5)
    objects = [spec for spec in all_objects() if not spec.held_out]
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.02)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    pool = _sample(max(BATCH, steps * BATCH // 8), rng, objects)
    looks = look_at([picture.render(SMALLEST_SCALE) for picture in pool])
    subjects, hours = _answers(pool)
    for _ in range(steps):
        chosen = torch.randint(len(pool), (BATCH,))
        said_subjects, said_hours = judge(_roughen(looks[chosen]))
        loss = functional.cross_entropy(said_subjects, subjects[chosen])
        loss = loss + functional.cross_entropy(said_hours, hours[chosen], ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return judge.eval()


def load_judge(path: Path | None, steps: int = STEPS) -> Judge:
    """Load the classifier, or train it (about a minute) and keep it if a path is given."""
    if path is None or not path.exists():
        judge = train_judge(steps)
        if path is not None:
            torch.save(judge.state_dict(), path)
        return judge
    judge = Judge()
    judge.load_state_dict(torch.load(path, weights_only=True))
    return judge.eval()
