"""The optimizer, shared by processes: Muon for matrices, Adam for the rest, and an average.

On a CPU two processes of one thread each train nets of this size faster than one process of two
threads. So every process computes gradients on its own batch and puts them into shared memory; then
each updates a part of the parameters (which also halves the optimizer's work) and all read the
result. With one process, or on a GPU, the same code runs without waiting for anyone.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn

MUON_BETA = 0.94
ADAM_BETAS = (0.9, 0.98)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values of some matrices (n, rows, columns) towards 1.

    Five Newton-Schulz iterations with the coefficients of Keller Jordan's Muon.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(torch.bfloat16)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


@dataclass
class Team:
    """The memory and the barrier that the processes of one run share; all vectors are flat."""

    gradients: torch.Tensor  # (processes, parameters), bfloat16
    weights: torch.Tensor  # (parameters,), float32: the masters of the bfloat16 network
    average: torch.Tensor  # exponential moving average of the weights
    first: torch.Tensor  # momentum of Muon, first moment of Adam
    second: torch.Tensor  # second moment of Adam
    stop: torch.Tensor  # (1,): not zero once the run shall end early
    barrier: Any

    @classmethod
    def gather(cls, module: nn.Module, processes: int, device: str = "cpu") -> Team:
        """Make the shared memory, with the weights of a float32 module in it."""
        flat = torch.cat([p.detach().float().reshape(-1) for p in module.parameters()])
        zeros = torch.zeros_like(flat)
        gradients = torch.zeros(processes, len(flat), dtype=torch.bfloat16)
        vectors = [gradients, flat, flat.clone(), zeros, zeros.clone(), torch.zeros(1)]
        vectors = [vector.to(device) for vector in vectors]
        if processes > 1:
            vectors = [vector.share_memory_() for vector in vectors]
        barrier = mp.get_context("spawn").Barrier(processes) if processes > 1 else None
        return cls(*vectors, barrier)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.barrier is not None:
            self.barrier.wait()

    def save(self, path: Path, **notes: Any) -> None:
        """Write a checkpoint, whole or not at all."""
        names = ("weights", "average", "first", "second")
        state = {name: getattr(self, name).cpu() for name in names} | notes
        partial = path.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint into the shared memory and return its notes."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name in ("weights", "average", "first", "second"):
            getattr(self, name).copy_(state.pop(name))
        return state


def put_weights(module: nn.Module, flat: torch.Tensor) -> None:
    """Copy a flat vector of weights into a module."""
    start = 0
    with torch.no_grad():
        for parameter in module.parameters():
            stop = start + parameter.numel()
            parameter.copy_(flat[start:stop].reshape(parameter.shape))
            start = stop


@dataclass(frozen=True)
class _Slot:
    """Where one parameter lies in the flat vectors, and how it is updated."""

    start: int
    stop: int
    matrix: tuple[int, int] | None  # rows and columns for Muon, None for Adam

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        part = flat[self.start : self.stop]
        return part if self.matrix is None else part.view(self.matrix)

    @property
    def cost(self) -> float:
        if self.matrix is None:
            return 10.0 * (self.stop - self.start)
        return 20.0 * (self.stop - self.start) * min(self.matrix)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether Muon is for a parameter: hidden matrices and convolutions that are not tiny."""
    ends = ("token_embedding", "position_embedding", "conv_in", "conv_out")
    if parameter.ndim < 2 or any(end in name for end in ends):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= 16


@dataclass(frozen=True)
class Rates:
    """The learning rates, and how long the average looks back."""

    muon: float
    adam: float
    average_decay: float


class Learner:
    """Trains one process's copy of a module, together with the other processes."""

    def __init__(
        self,
        module: nn.Module,
        team: Team,
        rank: int,
        rates: Rates,
        for_muon: Callable[[str, nn.Parameter], bool] = is_matrix,
    ) -> None:
        """Prepare; `for_muon` tells which parameters Muon updates."""
        self.team, self.rank, self.rates = team, rank, rates
        self.parameters = list(module.parameters())
        self.steps = 0
        slots, start = [], 0
        for name, parameter in module.named_parameters():
            stop = start + parameter.numel()
            rows = parameter.shape[0]
            matrix = (rows, parameter[0].numel()) if for_muon(name, parameter) else None
            slots.append(_Slot(start, stop, matrix))
            start = stop
        mine = self._share_out(slots)
        self.plain = [slot for slot in mine if slot.matrix is None]
        self.matrices: dict[tuple[int, int], list[_Slot]] = defaultdict(list)
        for slot in mine:
            if slot.matrix is not None:
                self.matrices[slot.matrix].append(slot)
        self.mine = mine
        self._read_weights()

    def _share_out(self, slots: list[_Slot]) -> list[_Slot]:
        """Deal the parameters out so that every process has about the same work; return ours."""
        loads = [0.0] * len(self.team.gradients)
        mine = []
        for slot in sorted(slots, key=lambda slot: -slot.cost):
            owner = loads.index(min(loads))
            loads[owner] += slot.cost
            if owner == self.rank:
                mine.append(slot)
        return mine

    def _read_weights(self) -> None:
        start = 0
        with torch.no_grad():
            for parameter in self.parameters:
                stop = start + parameter.numel()
                parameter.copy_(self.team.weights[start:stop].view(parameter.shape))
                start = stop

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """Share the gradients, update, and read the new weights; `scale` multiplies the rates."""
        pieces = [
            (p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1)
            for p in self.parameters
        ]
        torch.cat(pieces, out=self.team.gradients[self.rank])
        self.team.wait()
        self.steps += 1
        for slot in self.plain:
            self._adam(slot, self.rates.adam * scale)
        for shape, slots in self.matrices.items():
            self._muon(shape, slots, self.rates.muon * scale)
        decay = min(self.rates.average_decay, self.steps / (self.steps + 12))
        for slot in self.mine:
            slot.of(self.team.average).lerp_(slot.of(self.team.weights), 1 - decay)
        self.team.wait()
        self._read_weights()
        for parameter in self.parameters:
            parameter.grad = None

    def _gradient(self, slot: _Slot) -> torch.Tensor:
        mean = self.team.gradients[:, slot.start : slot.stop].float().mean(0)
        return mean if slot.matrix is None else mean.view(slot.matrix)

    def _adam(self, slot: _Slot, rate: float) -> None:
        gradient = self._gradient(slot)
        gradient = gradient * min(1.0, 1.0 / (float(gradient.norm()) + 1e-6))
        first, second = slot.of(self.team.first), slot.of(self.team.second)
        first.lerp_(gradient, 1 - ADAM_BETAS[0])
        second.lerp_(gradient.square(), 1 - ADAM_BETAS[1])
        size = math.sqrt(1 - ADAM_BETAS[1] ** self.steps) / (1 - ADAM_BETAS[0] ** self.steps)
        slot.of(self.team.weights).sub_(size * rate * first / (second.sqrt() + 1e-8))

    def _muon(self, shape: tuple[int, int], slots: list[_Slot], rate: float) -> None:
        gradients = torch.stack([self._gradient(slot) for slot in slots])
        momentum = torch.stack([slot.of(self.team.first) for slot in slots])
        momentum.lerp_(gradients, 1 - MUON_BETA)
        update = orthogonalize(gradients.lerp(momentum, MUON_BETA))
        update *= rate * math.sqrt(max(1.0, shape[0] / shape[1]))
        for k, slot in enumerate(slots):
            slot.of(self.team.first).copy_(momentum[k])
            slot.of(self.team.weights).sub_(update[k])


def run_team(work: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in so many processes and wait for all of them."""
    if processes == 1:
        work(0, *arguments)
        return
    mp.spawn(work, args=arguments, nprocs=processes, join=True)
