"""Trains the UNet and the text encoders: `unet` at a constant rate, `cooldown` down to nothing."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from architecture import TextToLatent, build_scheduler
from captions import caption
from codec import PatchCodec
from coupling import couple
from dataset import Dataset, held_out_pictures
from grid import draw_grid
from learner import Learner, Rates, Team, put_weights, run_team
from presets import Preset
from prompts import PROMPTS
from scenes import render
from specs import ObjectSpec
from tokenizer import load_tokenizer

RATES = Rates(muon=0.02, adam=2e-3, average_decay=0.998)
COOLDOWN_RATES = replace(RATES, average_decay=0.99)  # the falling rate averages by itself
WARMUP_STEPS = 60
FIRST_SHARE = 0.55  # of a batch is at t = 999, where everything is decided
ON_POLICY_SHARE = 0.75  # of the rest starts from the model's own first step
USUAL_TIMESTEPS = (749, 499, 249)  # where four trailing steps go after 999
CAPTION_DROPOUT = 0.06
CHANNEL_POWER = 0.7  # the loss weighs a channel by its deviation to this power


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


class UnetTask:
    """Computes the loss of one batch, and gradients."""

    def __init__(self, model: TextToLatent, data: Dataset, codec: PatchCodec, batch: int) -> None:
        """Prepare for batches of one size."""
        self.model, self.data, self.batch = model, data, batch
        self.device = str(model.unet.device)
        self.schedule = NoiseSchedule(self.device)
        weights = codec.deviation**CHANNEL_POWER
        self.channels = (weights / weights.mean())[None, :, None, None].to(self.device)
        self.first = round(batch * FIRST_SHARE)
        self.own = round((batch - self.first) * ON_POLICY_SHARE)
        self.errors: dict[str, list[torch.Tensor]] = defaultdict(list)

    def run(self) -> None:
        """Draw a batch and run forwards and backwards."""
        device, first = self.device, self.first
        clean, free, captions = self.data.draw(self.batch)
        noise = couple(torch.randn_like(clean), free).to(device)
        clean = clean.to(device)
        t = torch.full((self.batch,), 999)
        t[first:] = draw_timesteps(self.batch - first)
        t = t.to(device)
        states, pooled = self.model.encode_text(captions)
        kept = (torch.rand(self.batch, device=device) > CAPTION_DROPOUT).to(states.dtype)
        states, pooled = states * kept[:, None, None], pooled * kept[:, None]

        noisy = self.schedule.noisy(clean, noise, t)
        noisy[:first] = noise[:first]  # the sampler starts from pure noise
        own = slice(first, first + self.own)
        with torch.no_grad():
            start = torch.full((self.own,), 999, device=device)
            drawn = self.model.predict(noise[own], start, states[own], pooled[own])
        noisy[own] = self.schedule.after_first_step(drawn, noise[own], t[own])

        predicted = self.model.predict(noisy, t, states, pooled)
        square = (predicted - clean).square()
        # Late steps decide on detail, which is small in the error but not in the eye.
        late = 1 + 2.7 * (1 - t / 1000).square()
        (square * self.channels * late[:, None, None, None]).mean().backward()
        self._note(square.detach().mean((1, 2, 3)).cpu(), t.cpu(), kept.cpu() > 0)

    def _note(self, errors: torch.Tensor, t: torch.Tensor, kept: torch.Tensor) -> None:
        for timestep in (999, *USUAL_TIMESTEPS):
            chosen = errors[(t == timestep) & kept]
            if len(chosen):
                self.errors[f"t{timestep}"].append(chosen.mean())

    def report(self) -> str:
        """Say the mean squared error by timestep since the last report."""
        parts = [f"{k} {torch.stack(v).mean():.3f}" for k, v in sorted(self.errors.items())]
        self.errors.clear()
        return "  ".join(reversed(parts))


class Examiner:
    """Looks at the averaged weights now and then: a grid of pictures, and held-out errors."""

    def __init__(self, folder: Path, device: str, count: int) -> None:
        """Render the held-out pictures once."""
        self.folder = folder
        self.codec = PatchCodec.load(folder / "codec.npz")
        self.model = TextToLatent(load_tokenizer(folder / "tokenizer")).to(device).eval()
        pictures = held_out_pictures(count)
        rng = random.Random(3)
        self.captions = [caption(spec, rng) for spec, _ in pictures]
        self.is_object = torch.tensor([isinstance(spec, ObjectSpec) for spec, _ in pictures])
        drawn = np.stack([render(spec, free, 256) for spec, free in pictures])
        self.truth = self.codec.encode(drawn)
        noise = torch.randn(self.truth.shape, generator=torch.Generator().manual_seed(4))
        free = torch.from_numpy(np.stack([free for _, free in pictures]))
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


@dataclass(frozen=True)
class Plan:
    """What one call of a stage is to do."""

    name: str  # of the stage, of its checkpoint and of its grids
    start: int  # step
    end: int  # step
    cooldown: tuple[int, int] | None  # its first step and its length
    batch: int  # pictures per process
    snapshot_steps: int
    examined: int  # held-out pictures

    def rate_scale(self, step: int) -> float:
        """Return what the rates are multiplied by: warm up, stay, and in the cool-down fall."""
        if self.cooldown is None:
            return min(1.0, (step + 1) / WARMUP_STEPS)
        start, length = self.cooldown
        return max(0.005, 1 - (step - start) / length)

    def save(self, team: Team, folder: Path, step: int) -> None:
        """Write a checkpoint that a later call can go on from."""
        team.save(folder / f"{self.name}.pt", step=step, cooldown=list(self.cooldown or ()))


def _work(rank: int, team: Team, folder: Path, plan: Plan, device: str) -> None:
    """Train in one process; process 0 also reports, examines and writes checkpoints."""
    processes = len(team.gradients)
    if processes > 1:
        torch.set_num_threads(1)
    if device == "cpu":
        torch.backends.cuda.enable_flash_sdp(False)  # its backward pass is slow on a CPU
    model = TextToLatent(load_tokenizer(folder / "tokenizer")).to(device, torch.bfloat16)
    learner = Learner(model, team, rank, COOLDOWN_RATES if plan.cooldown else RATES)
    learner.steps = plan.start
    seed = 1_000 * plan.start + rank
    torch.manual_seed(seed)
    codec = PatchCodec.load(folder / "codec.npz")
    task = UnetTask(model, Dataset(folder, seed), codec, plan.batch)
    examiner = Examiner(folder, device, plan.examined) if rank == 0 else None
    last, since = plan.start, time.time()
    for step in range(plan.start + 1, plan.end + 1):
        task.run()
        if rank == 0 and (folder / "stop").exists():
            team.stop.fill_(1)
        learner.step(plan.rate_scale(step - 1))
        over = step == plan.end or bool(team.stop.item())
        if rank == 0 and (step % 50 == 0 or over):
            speed = (step - last) * plan.batch * processes / (time.time() - since)
            print(f"{plan.name} {step}/{plan.end}  {speed:.1f} img/s  {task.report()}", flush=True)
            last, since = step, time.time()
        if rank == 0 and (step % plan.snapshot_steps == 0 or over):
            # The average is complete: nobody updates before this process joins the next step.
            plan.save(team, folder, step)
            print(f"  {examiner.look(team.average, f'{plan.name}-{step:05d}')}", flush=True)
            last, since = step, time.time()
        if over:
            return


def train_unet(
    folder: Path, preset: Preset, device: str, processes: int, steps: int | None, cool: bool
) -> None:
    """Run the stage `unet` (or `cooldown` if `cool`), from its checkpoint if there is one.

    `unet` goes on for `steps` more steps; without `steps`, up to the preset's number. `cooldown`
    starts from the checkpoint of `unet` and takes `steps` steps in all. A file named `stop` in the
    folder ends either after the step at hand.
    """
    torch.manual_seed(0)
    tokenizer = load_tokenizer(folder / "tokenizer")
    team = Team.gather(TextToLatent(tokenizer), processes, device)
    name = "cooldown" if cool else "unet"
    own, constant = folder / f"{name}.pt", folder / "unet.pt"
    start, cooldown = 0, None
    if own.exists() or cool:
        notes = team.load(own if own.exists() else constant)
        start = notes["step"]
        cooldown = tuple(notes["cooldown"]) or None
    if cool:
        cooldown = cooldown or (start, steps or preset.cooldown_steps)
        end = sum(cooldown)
    else:
        end = start + steps if steps else preset.unet_steps
    if start >= end:
        print(f"{name}: done already ({start} steps)")
        return
    (folder / "stop").unlink(missing_ok=True)
    examined = 48 if preset.scenes > 1000 else 4
    plan = Plan(name, start, end, cooldown, preset.unet_batch, preset.snapshot_steps, examined)
    run_team(_work, processes, team, folder, plan, device)


def load_trained(folder: Path) -> TextToLatent:
    """Return the best model there is: the averaged weights of the cool-down, or of `unet`."""
    model = TextToLatent(load_tokenizer(folder / "tokenizer"))
    path = folder / "cooldown.pt"
    state = torch.load(path if path.exists() else folder / "unet.pt", weights_only=True)
    put_weights(model, state["average"])
    return model.eval()
