"""Looks at a UNet in training: a grid of pictures, and errors on held-out ones."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from architecture import TextToLatent
from captions import caption
from codec import QUARTER, PatchCodec
from coupling import couple
from dataset import held_out_pictures
from grid import draw_grid
from learner import put_weights
from prompts import PROMPTS
from specs import PlaceSpec
from tokenizer import load_tokenizer


class Examiner:
    """Looks at the averaged weights now and then: a grid of pictures, and held-out errors."""

    def __init__(self, folder: Path, device: str, count: int) -> None:
        """Render the held-out pictures once."""
        self.folder = folder
        self.codec = PatchCodec.load(folder / "codec.npz")
        self.model = TextToLatent(load_tokenizer(folder / "tokenizer")).to(device).eval()
        pictures = held_out_pictures(count)
        rng = random.Random(3)
        self.captions = [caption(picture.spec, rng) for picture in pictures]
        self.is_object = torch.tensor([not isinstance(p.spec, PlaceSpec) for p in pictures])
        self.truth = self.codec.encode(np.stack([p.render(QUARTER) for p in pictures]))
        noise = torch.randn(self.truth.shape, generator=torch.Generator().manual_seed(4))
        free = torch.from_numpy(np.stack([picture.free for picture in pictures]))
        self.noise = couple(noise, free).to(device)
        self.grid_noise = torch.cat(
            [
                torch.randn(1, *self.truth.shape[1:], generator=torch.Generator().manual_seed(k))
                for k in range(len(PROMPTS))
            ]
        ).to(device)

    def look(self, weights: torch.Tensor, name: str) -> str:
        """Write a grid of pictures and return the held-out figures in words."""
        put_weights(self.model, weights)
        words = []
        for steps in (1, 4):
            drawn = self.model.draw(self.captions, self.noise, steps).cpu()
            square = (drawn - self.truth).square().mean((2, 3))
            pixels = (square * self.codec.deviation**2).sum(1) / 192 / 4  # of a range of 1
            psnr = [
                -10 * float(pixels[m].mean().log10()) for m in (self.is_object, ~self.is_object)
            ]
            figures = f"mse {square.mean():.3f} objects {psnr[0]:.1f} dB places {psnr[1]:.1f} dB"
            words.append(f"{steps} step {figures}")
        latents = self.model.draw(list(PROMPTS), self.grid_noise, 4)
        draw_grid(self.codec.decode(latents), PROMPTS).save(self.folder / f"grid-{name}.jpg")
        return "  |  ".join(words)
