"""A linear codec: what the latent space of `mini` means, before any network is trained.

A picture of 1024 x 1024 is brought to 256 x 256 px and cut into 32 x 32 patches of 8 x 8 px; other
sizes likewise, at a quarter. The 192 numbers of a patch are projected onto their 16 principal axes
and divided by the standard deviation on each. That is a latent of shape (16, 32, 32) whose channels
have mean 0 and variance 1, as the diffusion wants them; channel 0 is the brightness of the patch,
the next ones its colour and its edges. The UNet can be trained on such latents at once, and only a
decoder to 1024 px has to be learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

CHANNELS = 16
GRID = 32  # patches along a side of a picture of the usual size
PATCH = 8  # px along a side of a patch
QUARTER = 1 / 4  # px a unit of the pictures it works on
CELL = 32  # units a patch
VALUES = PATCH * PATCH * 3  # numbers in a patch


def to_patches(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Cut uint8 pictures (n, 8 h, 8 w, 3) into patches (n, h, w, 192) on [-1, 1]."""
    x = torch.as_tensor(pictures).float() / 127.5 - 1
    n, height, width, _ = x.shape
    x = x.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // PATCH, width // PATCH, VALUES)


@dataclass
class PatchCodec:
    """The fitted codec; all arrays are float32."""

    mean: torch.Tensor  # (192,)
    axes: torch.Tensor  # (192, 16)
    deviation: torch.Tensor  # (16,)

    @classmethod
    def fit(cls, pictures: np.ndarray) -> PatchCodec:
        """Find the principal axes of the patches of some uint8 pictures."""
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
        """Turn uint8 pictures (n, 8 h, 8 w, 3) into latents (n, 16, h, w)."""
        values = (to_patches(pictures) - self.mean) @ self.axes / self.deviation
        return values.permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Turn latents (n, 16, h, w) into blocky uint8 pictures (n, 8 h, 8 w, 3)."""
        values = latents.float().cpu().permute(0, 2, 3, 1)
        patches = (values * self.deviation) @ self.axes.T + self.mean
        n, height, width, _ = patches.shape
        x = patches.reshape(n, height, width, PATCH, PATCH, 3).permute(0, 1, 3, 2, 4, 5)
        x = ((x.reshape(n, height * PATCH, width * PATCH, 3) + 1) * 127.5).round().clamp(0, 255)
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
    """Average a uint8 picture (4 h, 4 w, 3) down to a quarter: one pixel for four units."""
    height, width, _ = picture.shape
    parts = picture.reshape(height // 4, 4, width // 4, 4, 3)
    return parts.mean((1, 3)).round().astype(np.uint8)
