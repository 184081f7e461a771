"""Trains the encoder: a regression from pictures to the latents of the linear codec.

Text-to-image does without an encoder; image-to-image begins with it. It starts as a codec too: it
averages its input down to the mean colour of each patch, in the same channels as `decoder.py`.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from architecture import build_vae
from codec import CHANNELS, PatchCodec
from decoder import CARRIED, carry
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from learner import Learner, Rates, Team, run_team
from presets import Preset
from stage_decoder import PictureSource, is_inner_convolution, rate_scale
from torch import nn

RATES = Rates(muon=0.004, adam=1e-3, average_decay=0.98)
CHANNEL_POWER = 1.0  # the loss weighs a channel by its deviation to this power
CERTAIN = -14.0  # log variance: encoding adds next to no noise


@torch.no_grad()
def start_averaging(vae: AutoencoderKL) -> None:
    """Set the encoder's weights so that it carries the mean colour of every patch down."""
    encoder = vae.encoder
    for module in encoder.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.mul_(0.15)
            module.conv2.bias.zero_()
            if module.conv_shortcut is not None:
                carry(module.conv_shortcut, 0.5)
        if isinstance(module, Downsample2D):
            _average(module.conv)
    layer = encoder.conv_in
    layer.weight.zero_()
    layer.bias.zero_()
    for color in range(3):
        layer.weight[2 * color, color, 1, 1] = 1
        layer.weight[2 * color + 1, color, 1, 1] = -1
    layer.bias[6], layer.bias[7] = 1.0, -1.0
    encoder.conv_out.weight[CHANNELS:] = 0
    encoder.conv_out.bias[CHANNELS:] = CERTAIN


def _average(layer: nn.Conv2d) -> None:
    """Let a convolution of stride 2 average the carried channels over 2 x 2 cells."""
    layer.weight[:CARRIED] = 0
    layer.bias.zero_()
    for k in range(CARRIED):
        layer.weight[k, k, :2, :2] = 0.25


def _work(rank: int, team: Team, folder: Path, steps: int, device: str, start: int) -> None:
    if len(team.gradients) > 1:
        torch.set_num_threads(1)
    codec = PatchCodec.load(folder / "codec.npz")
    source = PictureSource(codec, 20_000 + 10_000 * start + rank, None, latent_noise=0.0)
    vae = build_vae().to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    learner = Learner(vae.encoder, team, rank, RATES, is_inner_convolution)
    learner.steps = start
    weights = codec.deviation**CHANNEL_POWER
    weights = (weights / weights.mean())[None, :, None, None].to(device)
    errors, since = [], time.time()
    for step in range(start, steps):
        latents, pictures = source.draw_crop()
        pictures = pictures.to(device, torch.bfloat16, memory_format=torch.channels_last)
        encoded = vae.encoder(pictures)[:, :CHANNELS].float()
        square = (encoded - latents.to(device)).square()
        (square * weights).mean().backward()
        errors.append(float(square.detach().mean()))
        learner.step(rate_scale(step, steps))
        if rank == 0 and (step % 50 == 49 or step == steps - 1):
            speed = len(errors) * len(latents) * len(team.gradients) / (time.time() - since)
            mean = sum(errors) / len(errors)
            print(f"encoder {step + 1}/{steps}  {speed:.1f} img/s  mse {mean:.3f}", flush=True)
            errors, since = [], time.time()
        if rank == 0 and (step % 200 == 199 or step == steps - 1):
            team.save(folder / "encoder.pt", step=step + 1)


def train_encoder(folder: Path, preset: Preset, device: str, processes: int) -> None:
    """Run the stage `encoder`, from its checkpoint if there is one."""
    torch.manual_seed(2)
    vae = build_vae()
    start_averaging(vae)
    team = Team.gather(vae.encoder, processes, device)
    own = folder / "encoder.pt"
    start = team.load(own)["step"] if own.exists() else 0
    if start >= preset.encoder_steps:
        print(f"encoder: done already ({start} steps)")
        return
    run_team(_work, processes, team, folder, preset.encoder_steps, device, start)
