"""The noise schedule as the training of the UNet needs it."""

from __future__ import annotations

import torch
from architecture import build_scheduler

USUAL_TIMESTEPS = (749, 499, 249)  # where four trailing steps go after 999


class NoiseSchedule:
    """The numbers of SDXL's noise schedule that training needs."""

    def __init__(self, device: str) -> None:
        """Read them from the scheduler that ships."""
        signal = build_scheduler().alphas_cumprod.to(device)
        self.alpha = signal.sqrt()  # share of the picture in a noisy latent, by timestep
        self.sigma = (1 - signal).sqrt()  # share of the noise
        self.ratio = self.sigma / self.alpha  # what the Euler sampler calls sigma

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Mix pictures and noise as the schedule says."""
        return (
            self.alpha[t][:, None, None, None] * clean + self.sigma[t][:, None, None, None] * noise
        )

    def after_first_step(
        self, drawn: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
    ) -> torch.Tensor:
        """Return where the sampler stands at `t` if the first step from pure noise drew `drawn`."""
        direction = noise - drawn / self.ratio[-1]
        step = self.ratio[t][:, None, None, None] * direction
        return self.alpha[t][:, None, None, None] * (drawn + step)


def draw_timesteps(count: int) -> torch.Tensor:
    """Draw timesteps below 999: mostly those of the four-step sampler, the others for the rest."""
    usual = torch.tensor(USUAL_TIMESTEPS)[torch.randint(len(USUAL_TIMESTEPS), (count,))]
    return torch.where(torch.rand(count) < 0.7, usual, torch.randint(1, 999, (count,)))
