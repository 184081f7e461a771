"""A linear codec: what the latent space of `mini` means, before any network is trained.

A picture is brought to 256 x 256 px and cut into 32 x 32 patches of 8 x 8 px. The 192 numbers of a
patch are projected onto their 16 principal axes and divided by the standard deviation on each. That
is a latent of shape (16, 32, 32) whose channels have mean 0 and variance 1, as the diffusion wants
them; channel 0 is the brightness of the patch, the next ones its colour and its edges. The UNet can
be trained on such latents at once, and only a decoder to 1024 px has to be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

CHANNELS = 16
GRID = 32  # patches along a side
PATCH = 8  # px along a side of a patch
PIXELS = GRID * PATCH
VALUES = PATCH * PATCH * 3  # numbers in a patch


def to_patches(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Cut uint8 pictures (n, 256, 256, 3) into patches (n, 1024, 192) on [-1, 1]."""
    x = torch.as_tensor(pictures).float() / 127.5 - 1
    x = x.reshape(len(x), GRID, PATCH, GRID, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), GRID * GRID, VALUES)


@dataclass
class PatchCodec:
    """The fitted codec; all arrays are float32."""

    mean: torch.Tensor  # (192,)
    axes: torch.Tensor  # (192, 16)
    deviation: torch.Tensor  # (16,)

    @classmethod
    def fit(cls, pictures: np.ndarray) -> PatchCodec:
        """Find the principal axes of the patches of some uint8 pictures (n, 256, 256, 3)."""
        total, products, count = torch.zeros(VALUES), torch.zeros(VALUES, VALUES), 0
        for start in range(0, len(pictures), 100):
            patches = to_patches(pictures[start : start + 100]).reshape(-1, VALUES)
            total += patches.sum(0)
            products += patches.T @ patches
            count += len(patches)
        mean = total / count
        variances, axes = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        variances, axes = variances.flip(0)[:CHANNELS], axes.flip(1)[:, :CHANNELS]
        return cls(mean, axes.contiguous(), variances.clamp(min=1e-8).sqrt())

    def encode(self, pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Turn uint8 pictures (n, 256, 256, 3) into latents (n, 16, 32, 32)."""
        values = (to_patches(pictures) - self.mean) @ self.axes / self.deviation
        return values.permute(0, 2, 1).reshape(-1, CHANNELS, GRID, GRID)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Turn latents (n, 16, 32, 32) into blocky uint8 pictures (n, 256, 256, 3)."""
        values = latents.float().cpu().reshape(-1, CHANNELS, GRID * GRID).permute(0, 2, 1)
        patches = (values * self.deviation) @ self.axes.T + self.mean
        x = patches.reshape(-1, GRID, GRID, PATCH, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
        x = ((x.reshape(-1, PIXELS, PIXELS, 3) + 1) * 127.5).round().clamp(0, 255)
        return x.to(torch.uint8).numpy()

    def save(self, path: Path) -> None:
        """Write the codec to an .npz file."""
        arrays = {"mean": self.mean, "axes": self.axes, "deviation": self.deviation}
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})

    @classmethod
    def load(cls, path: Path) -> PatchCodec:
        """Read a codec that `save` wrote."""
        with np.load(path) as arrays:
            names = ("mean", "axes", "deviation")
            return cls(*(torch.from_numpy(arrays[name]) for name in names))


def shrink(picture: np.ndarray) -> np.ndarray:
    """Average a uint8 picture (n, n, 3), n a multiple of 256, down to 256 px."""
    times = len(picture) // PIXELS
    return picture.reshape(PIXELS, times, PIXELS, times, 3).mean((1, 3)).round().astype(np.uint8)
