"""Noise coupling: the free variables of a picture are read off the noise it is drawn from.

A text-to-image model must turn Gaussian noise into what the caption leaves open. Here the training
pictures are drawn so that it can: each free variable of the renderer is the mean of a block of
4 x 4 latent-noise values at the place the variable belongs to. The noise stays exactly N(0, I), but
now (caption, noise) determines the picture, and a few-step model is trained by plain regression.
"""

from __future__ import annotations

import math

import torch
from scenery import FREE_CHANNELS

BLOCK = 4  # latent cells along a side of a block: those of one square of 128 x 128 drawing units


def _blocks(noise: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Cut the first channels of noise into blocks; what is less than a block is left over."""
    part = noise[:, :FREE_CHANNELS, : rows * BLOCK, : columns * BLOCK]
    return part.reshape(-1, FREE_CHANNELS, rows, BLOCK, columns, BLOCK)


def couple(noise: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    """Write free variables (n, 2, rows, columns) into noise (n, 16, h, w); returns new noise.

    A uniform variable becomes a standard normal one, and that becomes the mean of its block,
    whose standard deviation is 1 / 4. The other 15 directions of the block are left as drawn.
    """
    rows, columns = free.shape[2:]
    normal = math.sqrt(2) * torch.erfinv((2 * free.float() - 1).clamp(-0.9999, 0.9999))
    blocks = _blocks(noise, rows, columns)
    shift = normal / BLOCK - blocks.mean((3, 5))
    shifted = blocks + shift[:, :, :, None, :, None]
    coupled = noise.clone()
    height, width = rows * BLOCK, columns * BLOCK
    coupled[:, :FREE_CHANNELS, :height, :width] = shifted.reshape(-1, FREE_CHANNELS, height, width)
    return coupled


def free_variables(noise: torch.Tensor) -> torch.Tensor:
    """Read the free variables (n, 2, rows, columns) that some noise (n, 16, h, w) stands for."""
    blocks = _blocks(noise, noise.shape[2] // BLOCK, noise.shape[3] // BLOCK)
    return 0.5 * (1 + torch.erf(blocks.mean((3, 5)) * BLOCK / math.sqrt(2)))
