"""Trains the UNet and the text encoders: `unet` at a constant rate, `cooldown` down to nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from architecture import TextToLatent, build_scheduler
from codec import VALUES, PatchCodec
from coupling import couple
from dataset import Batch, Dataset
from examiner import Examiner
from learner import Learner, Rates, Team, put_weights, run_team
from presets import Preset
from schedule import USUAL_TIMESTEPS, NoiseSchedule, draw_timesteps
from tokenizer import load_tokenizer

RATES = Rates(muon=0.02, adam=2e-3, average_decay=0.998)
COOLDOWN_RATES = replace(RATES, average_decay=0.99)  # the falling rate averages by itself
WARMUP_STEPS = 60
FIRST_SHARE = 0.55  # of a batch is at t = 999, where everything is decided
ON_POLICY_SHARE = 0.75  # of the rest starts from the model's own first step
CAPTION_DROPOUT = 0.06
GUIDED_EVERY = 4  # a step in so many trains guidance too: small batches at each would cost more
GUIDED_SHARE = 0.4  # of a batch is trained so in addition
GUIDED_WEIGHT = 0.25  # of its mean error in the loss: guidance makes the gradients louder
CHANGED_WEIGHT = 6.0  # of the error where a negative prompt takes something out
GUIDED_STEPS = (1, 1, 1, 2, 2, 3)  # which of the four is trained; see `_train_guided`
GUIDANCE = (2.0, 3.0, 3.0, 3.0, 4.0)
WORDINGS = 48  # captions of objects that a step compares with the plainest ones
WORDING_WEIGHT = 0.2  # of what the two differ by, in the loss
METRIC_EVERY = 25  # steps after which it is measured anew how the plainest ones differ
METRIC_CAPTIONS = 400
COLOR_WEIGHT = 4.0  # of the error of objects' colours, in the loss
USUAL_AREA = 1024 * 1024
CHANNEL_POWER = 0.7  # the loss weighs a channel by its deviation to this power


class UnetTask:
    """Computes the loss of one batch, and gradients."""

    def __init__(self, model: TextToLatent, data: Dataset, codec: PatchCodec, batch: int) -> None:
        """Prepare for batches of one size."""
        self.model, self.data, self.batch = model, data, batch
        self.device = str(model.unet.device)
        self.schedule = NoiseSchedule(self.device)
        weights = codec.deviation**CHANNEL_POWER
        self.channels = (weights / weights.mean())[None, :, None, None].to(self.device)
        self.variance = (codec.deviation**2)[None, :, None, None].to(self.device)
        self.turn = 0
        self.errors: dict[str, list[torch.Tensor]] = defaultdict(list)

    def run(self) -> None:
        """Draw a batch and run forwards and backwards."""
        size = self.data.draw_size()
        # Smaller pictures come in larger batches, so that the processes need not wait for another.
        count = round(self.batch * min(3.0, USUAL_AREA / (size[0] * size[1])))
        self._train_plain(self.data.draw(size, count))
        self._train_wordings()
        if self.turn % GUIDED_EVERY == 0:
            self._train_guided(self.data.draw_guided(size, max(2, round(count * GUIDED_SHARE))))
        self.turn += 1

    def _encode(self, captions: list[str], kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode captions; where `kept` is 0 the embeddings are zeros, as for an empty prompt."""
        states, pooled = self.model.encode_text(captions)
        kept = kept.to(states)
        return states * kept[:, None, None], pooled * kept[:, None]

    def _train_plain(self, batch: Batch) -> None:
        """Train without guidance: the sampler's first step above all."""
        device, count = self.device, len(batch.captions)
        first = round(count * FIRST_SHARE)
        own = slice(first, first + round((count - first) * ON_POLICY_SHARE))
        clean = batch.latents.to(device)
        noise = couple(torch.randn_like(batch.latents), batch.free).to(device)
        t = torch.full((count,), 999)
        t[first:] = draw_timesteps(count - first)
        t = t.to(device)
        kept = torch.rand(count) > CAPTION_DROPOUT
        states, pooled = self._encode(batch.captions, kept)

        noisy = self.schedule.noisy(clean, noise, t)
        noisy[:first] = noise[:first]  # the sampler starts from pure noise
        with torch.no_grad():
            start = torch.full_like(t[own], 999)
            drawn = self.model.predict(noise[own], start, states[own], pooled[own])
        noisy[own] = self.schedule.after_first_step(drawn, noise[own], t[own])

        predicted = self.model.predict(noisy, t, states, pooled)
        square = (predicted - clean).square()
        color = self._color_loss(square, batch.flat.to(device), kept.to(device))
        (self._loss(square, t) + COLOR_WEIGHT * color).backward()
        self._note(square.detach().mean((1, 2, 3)).cpu(), t.cpu(), kept)

    def _train_guided(self, batch: Batch) -> None:
        """Train a step of the four-step sampler under guidance, after the steps before it.

        The negative branch is trained through what the sampler makes of both: where the negative
        prompt names something, the answer is the picture without it, and otherwise the picture as
        it is without guidance. The positive branch is what it is, for it also draws without
        guidance. The first step is taken but not trained: out of pure noise the negative branch
        cannot know the picture, and its error there is large whatever it learns.
        """
        count = len(batch.captions)
        clean = batch.latents.to(self.device)
        noise = couple(torch.randn_like(batch.latents), batch.free).to(self.device)
        scales = torch.tensor(GUIDANCE)[torch.randint(len(GUIDANCE), (count, 1, 1, 1))]
        with torch.no_grad():
            wanted = self.model.encode_text(batch.captions)
        said = torch.tensor([bool(words) for words in batch.negatives])
        unwanted = self._encode(batch.negatives, said)

        def guided(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                positive = self.model.predict(latents, timestep, *wanted)
            negative = self.model.predict(latents, timestep, *unwanted)
            return negative + scales.to(positive) * (positive - negative)

        scheduler = build_scheduler()
        scheduler.set_timesteps(4)
        latents = noise * scheduler.init_noise_sigma
        last = self.data.rng.choice(GUIDED_STEPS)
        with torch.no_grad():
            for timestep in scheduler.timesteps[:last]:
                drawn = guided(scheduler.scale_model_input(latents, timestep), timestep)
                latents = scheduler.step(drawn, timestep, latents).prev_sample
        timestep = scheduler.timesteps[last]
        drawn = guided(scheduler.scale_model_input(latents, timestep), timestep)
        square = (drawn - clean).square()
        changed = 1 + (CHANGED_WEIGHT - 1) * batch.changed.to(square)
        weighted = square * changed / changed.mean((1, 2, 3), keepdim=True)
        (GUIDED_WEIGHT * self._loss(weighted, timestep.expand(count))).backward()
        self.errors["guided"].append(square.detach().mean().cpu())

    def _train_wordings(self) -> None:
        """Train the text encoder that is pooled to mean the same by all wordings of an object.

        The plainest wording is the teacher: the UNet draws it rightly long before the others, and
        captions alone cost next to nothing.
        """
        said, plain = self.data.draw_wordings(WORDINGS)
        with torch.no_grad():
            wanted = self.model.encode_pooled(plain)
        if self.turn % METRIC_EVERY == 0:
            self.metric = self._measure_wordings()
        missed = ((self.model.encode_pooled(said) - wanted) @ self.metric).square().mean()
        (WORDING_WEIGHT * missed).backward()
        self.errors["words"].append(missed.detach())

    def _measure_wordings(self) -> torch.Tensor:
        """Return what whitens the pooled states of objects (128, 128).

        Orange and yellow differ by less than a house and a ring, and shall count as much.
        """
        with torch.no_grad():
            states = self.model.encode_pooled(self.data.draw_wordings(METRIC_CAPTIONS)[1])
        variances, axes = torch.linalg.eigh(states.T.cov())
        return axes / (variances + 0.02 * variances.mean()).sqrt()

    def _loss(self, square: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        # Late steps decide on detail, which is small in the error but not in the eye.
        late = 1 + 2.7 * (1 - t.to(square) / 1000).square()
        return (square * self.channels * late[:, None, None, None]).mean()

    def _color_loss(
        self, square: torch.Tensor, flat: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean squared error of objects' colours, of values on [-1, 1].

        In whitened latents a neighbouring colour is a small error, in a small object a tiny one:
        so every object counts as much here, whatever its area.
        """
        pixels = (square * self.variance).sum(1, keepdim=True) / VALUES
        flat = flat * kept[:, None, None, None]
        cells = flat.sum((1, 2, 3))
        errors = (pixels * flat).sum((1, 2, 3)) / cells.clamp(min=1)
        if cells.any():
            self.errors["color"].append(errors.detach()[cells > 0].mean().cpu())
        return errors.mean()

    def _note(self, errors: torch.Tensor, t: torch.Tensor, kept: torch.Tensor) -> None:
        for timestep in (999, *USUAL_TIMESTEPS):
            chosen = errors[(t == timestep) & kept]
            if len(chosen):
                self.errors[f"t{timestep}"].append(chosen.mean())

    def report(self) -> str:
        """Say the mean squared error by timestep since the last report."""
        parts = [f"{k} {torch.stack(v).mean():.3f}" for k, v in sorted(self.errors.items())]
        self.errors.clear()
        return "  ".join(parts[::-1])


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
