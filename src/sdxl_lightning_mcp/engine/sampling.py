"""Sigmas, timesteps, and the Euler step for samples that stand at different steps.

The schedule is SDXL's (scaled-linear betas 0.00085 to 0.012 over 1,000 timesteps); its spacing is
trailing, as ByteDance's model card asks for SDXL-Lightning, or leading, as SDXL base comes. The
step is Euler's (Karras et al., arXiv 2206.00364, algorithm 1). Without state, so that any number
of samples can share a call.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sdxl_lightning_mcp.checkpoint import PredictionType, Spacing

TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """`timesteps`: (steps,) float32, falling. `sigmas`: (steps + 1,) float32, ending in 0.

    `start`: (), the standard deviation of the noise that a run starts from.
    """

    timesteps: Tensor
    sigmas: Tensor
    start: Tensor


@lru_cache(maxsize=128)
def make_schedule(steps: int, spacing: Spacing) -> Schedule:
    """The noise levels of a run of that many steps, on the CPU."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_TIMESTEPS, dtype=torch.float32) ** 2
    kept = torch.cumprod(1.0 - betas, dim=0)
    all_sigmas = (((1 - kept) / kept) ** 0.5).numpy()
    if spacing == "trailing":
        # The last timestep comes first: "leading" starts a few steps from a far lower noise level.
        timesteps = np.arange(TRAIN_TIMESTEPS, 0, -TRAIN_TIMESTEPS / steps).round() - 1
    else:
        timesteps = (np.arange(steps) * (TRAIN_TIMESTEPS // steps))[::-1] + 1.0
    sigmas = torch.tensor(
        np.append(np.interp(timesteps, np.arange(TRAIN_TIMESTEPS), all_sigmas), 0).astype("float32")
    )
    # Leading spacing starts where some of the picture is left, so its variance counts too.
    start = sigmas[0] if spacing == "trailing" else (sigmas[0] ** 2 + 1) ** 0.5
    return Schedule(torch.tensor(timesteps.astype(np.float32)), sigmas, start)


def scale_input(latents: Tensor, sigmas: Tensor) -> Tensor:
    """Brings noisy latents (B, C, h, w) at `sigmas` (B, 1, 1, 1) to the UNet's unit variance."""
    return latents / ((sigmas**2 + 1) ** 0.5)


def euler_step(
    latents: Tensor,
    output: Tensor,
    sigmas: Tensor,
    next_sigmas: Tensor,
    prediction_type: PredictionType,
) -> Tensor:
    """One Euler step for a batch whose samples stand at different noise levels.

    Args:
        latents: Noisy latents, (B, C, h, w), float32.
        output: What the UNet predicted for them, same shape, float32.
        sigmas: Their noise levels, (B, 1, 1, 1), float32.
        next_sigmas: The noise levels to go to, same shape.
        prediction_type: What `output` is: the noise, the clean sample, or the velocity.

    Returns:
        The latents at `next_sigmas`.
    """
    match prediction_type:
        case "sample":
            clean = output
        case "epsilon":
            clean = latents - sigmas * output
        case "v_prediction":
            clean = output * (-sigmas / (sigmas**2 + 1) ** 0.5) + latents / (sigmas**2 + 1)
    return latents + (latents - clean) / sigmas * (next_sigmas - sigmas)


def gaussian_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, float32, from a CPU generator: the same on every device."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))
