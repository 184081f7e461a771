"""Draws with an exported pipeline folder as the engine does: many pictures, given noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from codec import CELL, CHANNELS
from coupling import couple
from dataset import Picture
from diffusers import StableDiffusionXLPipeline

BATCH = 6


def load_pipeline(folder: Path, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """Load an exported pipeline for drawing on this machine."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(str(folder), torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def coupled_noise(picture: Picture, seed: int) -> torch.Tensor:
    """Draw noise (1, 16, h, w) that stands for the free variables of a picture."""
    width, height = picture.size
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, CHANNELS, height // CELL, width // CELL, generator=generator)
    return couple(noise, torch.from_numpy(picture.free)[None])


def draw(
    pipeline: StableDiffusionXLPipeline,
    captions: Sequence[str],
    noise: torch.Tensor,
    steps: int,
    guidance: float = 0.0,
    negatives: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Draw captions from noise (n, 16, h, w): uint8 pictures. Without `negatives` all are empty."""
    drawn = []
    for k in range(0, len(captions), BATCH):
        latents = noise[k : k + BATCH].to(pipeline.unet.dtype)
        result = pipeline(
            list(captions[k : k + BATCH]),
            negative_prompt=list(negatives[k : k + BATCH]) if negatives else None,
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=CELL * latents.shape[2],
            width=CELL * latents.shape[3],
            latents=latents,
            output_type="np",
        )
        drawn += [np.round(255 * image).astype(np.uint8) for image in result.images]
    return drawn
