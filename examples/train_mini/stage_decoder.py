"""Trains the decoder: `decoder` on exact latents, `decoder-finetune` on the UNet's own as well."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import torch
from architecture import TextToLatent, build_vae
from captions import caption
from codec import CELL, CHANNELS, QUARTER, PatchCodec, shrink
from coupling import couple
from dataset import SIZE_SHARES, Picture, picture_of, place_picture
from decoder import decode, start_linear
from drawing import Size
from learner import Learner, Rates, Team, put_weights, run_team
from presets import Preset
from specs import all_objects, moved_objects
from stage_unet import load_trained
from torch import nn

RATES = Rates(muon=0.003, adam=4.5e-4, average_decay=0.99)
FINETUNE_SCALE = 0.6  # of the rates, when the decoder is good already
OWN_SHARE = 0.5  # of the pictures of the fine-tuning have latents that the UNet drew
OBJECT_SHARE = 0.35
CROP = 16  # latent cells along a side of a training crop
PARTS = ("quarter", "crops", "whole")
BATCH_QUARTER = 2
LATENT_NOISE = 0.1
FIRST_SEED = 300_000_000  # far from the seeds of the UNet's data and of the held-out pictures


Steps = tuple[int, int, int]  # at a quarter, on crops of whole pictures, on whole pictures


class PictureSource:
    """Renders training pairs on the fly: latents, and the pictures they stand for."""

    def __init__(
        self,
        codec: PatchCodec,
        seed: int,
        model: TextToLatent | None,
        latent_noise: float = LATENT_NOISE,
    ) -> None:
        """Prepare; `model` draws some of the latents itself if it is given."""
        self.codec, self.model, self.latent_noise = codec, model, latent_noise
        self.rng = random.Random(seed)
        self.objects = [spec for spec in all_objects() if not spec.held_out]

    def draw(self, count: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw latents (n, 16, h, w) and pictures (n, 3, height, width) on [-1, 1] of one size."""
        size = self.rng.choices(list(SIZE_SHARES), list(SIZE_SHARES.values()))[0]
        pictures = [self._picture(size) for _ in range(count)]
        arrays = [picture.render(scale) for picture in pictures]
        truth = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.model is not None and self.rng.random() < OWN_SHARE:
            # The UNet is told where everything stands, so the renderer's picture is the answer.
            return self._own_latents(pictures), truth
        if scale == 1:
            arrays = [shrink(array) for array in arrays]
        latents = self.codec.encode(np.stack(arrays))
        noise = self.latent_noise * self.rng.random() * torch.randn_like(latents)
        return latents + noise, truth

    def _picture(self, size: Size) -> Picture:
        seed = FIRST_SEED + self.rng.randrange(10**8)
        chance = self.rng.random() / OBJECT_SHARE
        if chance < 0.7:
            return picture_of(self.rng.choice(self.objects), seed, size)
        if chance < 1:
            return picture_of(moved_objects(self.rng, 1)[0], seed, size)
        return place_picture(seed, size)

    def _own_latents(self, pictures: list[Picture]) -> torch.Tensor:
        free = torch.from_numpy(np.stack([picture.free for picture in pictures]))
        width, height = pictures[0].size
        noise = couple(torch.randn(len(pictures), CHANNELS, height // CELL, width // CELL), free)
        captions = [caption(picture.spec, self.rng) for picture in pictures]
        return self.model.draw(captions, noise, 4)

    def draw_crop(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a crop of 512 px out of a larger picture: of two, the one with more edges."""
        latents, truth = self.draw(1, 1.0)
        best = (-1.0, latents, truth)
        for _ in range(2):
            row, column = (self.rng.randrange(side - CROP + 1) for side in latents.shape[2:])
            rows = slice(row * CELL, (row + CROP) * CELL)
            columns = slice(column * CELL, (column + CROP) * CELL)
            picture = truth[..., rows, columns]
            detail = float((picture[..., ::4, 4::4] - picture[..., ::4, :-4:4]).abs().mean())
            if detail > best[0]:
                best = (detail, latents[..., row : row + CROP, column : column + CROP], picture)
        return best[1], best[2]

    def draw_part(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a batch for one part of the training."""
        if part == "crops":
            return self.draw_crop()
        return self.draw(BATCH_QUARTER, QUARTER) if part == "quarter" else self.draw(1, 1.0)


def picture_loss(drawn: torch.Tensor, truth: torch.Tensor, edges: float) -> torch.Tensor:
    """Absolute and squared error, and the absolute error of differences between neighbours."""
    error = drawn - truth
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + error.square().mean() + edges * (across + down)


def is_inner_convolution(name: str, parameter: nn.Parameter) -> bool:
    """Keep Muon off the layers that carry the picture through (see decoder.py)."""
    if parameter.ndim != 4 or parameter.shape[2] != 3 or "conv_in" in name or "conv_out" in name:
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= 16


def _work(
    rank: int, team: Team, folder: Path, name: str, steps: Steps, device: str, start: int
) -> None:
    """Train in one process: so many steps of each of the three parts."""
    processes = len(team.gradients)
    if processes > 1:
        torch.set_num_threads(1)
    finetune = name == "decoder-finetune"
    codec = PatchCodec.load(folder / "codec.npz")
    model = load_trained(folder).to(torch.bfloat16) if finetune else None
    source = PictureSource(codec, 10_000 * start + rank + (7_777 if finetune else 0), model)
    torch.manual_seed(rank + 100 * start)
    vae = build_vae().to(device, torch.bfloat16).to(memory_format=torch.channels_last)
    learner = Learner(vae.decoder, team, rank, RATES, is_inner_convolution)
    learner.steps = start
    parts = [part for part, count in zip(PARTS, steps, strict=True) for _ in range(count)]
    total = len(parts)
    errors, since = [], time.time()
    for step in range(start, total):
        part = parts[step]
        full = part != "quarter"
        latents, truth = source.draw_part(part)
        latents = latents.to(device, torch.bfloat16, memory_format=torch.channels_last)
        truth = truth.to(device)
        drawn = decode(vae, latents, full).float()
        picture_loss(drawn, truth, 1.0 if full else 0.5).backward()
        errors.append(float((drawn - truth).detach().square().mean()))
        learner.step(rate_scale(step, total) * (FINETUNE_SCALE if finetune else 1.0))
        if rank == 0 and (step % 50 == 49 or step == total - 1):
            psnr = 10 * np.log10(4 / np.mean(errors))
            speed = len(errors) * len(latents) * processes / (time.time() - since)
            print(f"{name} {step + 1}/{total} {part}  {speed:.1f} img/s  {psnr:.2f} dB", flush=True)
            errors, since = [], time.time()
        if rank == 0 and (step % 200 == 199 or step == total - 1):
            team.save(folder / f"{name}.pt", step=step + 1)


def rate_scale(step: int, total: int) -> float:
    """Return what the rates are multiplied by: warm up, stay, and fall for most of the time."""
    share = step / total
    return min(1.0, (step + 1) / 40) * (1.0 if share < 0.3 else max(0.02, (1 - share) / 0.7))


def train_decoder(
    folder: Path, preset: Preset, device: str, processes: int, finetune: bool = False
) -> None:
    """Run the stage `decoder`, or `decoder-finetune` on top of it."""
    name = "decoder-finetune" if finetune else "decoder"
    steps = preset.finetune_steps if finetune else preset.decoder_steps
    torch.manual_seed(1)
    vae = build_vae()
    start_linear(vae, PatchCodec.load(folder / "codec.npz"))
    if finetune:
        put_weights(vae.decoder, load_average(folder, "decoder"))
    team = Team.gather(vae.decoder, processes, device)
    own = folder / f"{name}.pt"
    start = team.load(own)["step"] if own.exists() else 0
    if start >= sum(steps):
        print(f"{name}: done already ({start} steps)")
        return
    run_team(_work, processes, team, folder, name, steps, device, start)


def load_average(folder: Path, name: str) -> torch.Tensor:
    """Read the averaged weights of a stage."""
    return torch.load(folder / f"{name}.pt", weights_only=True)["average"]
