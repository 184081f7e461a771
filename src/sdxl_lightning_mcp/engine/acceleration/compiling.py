"""The process that compiles one call ahead of time (AOTInductor), beside the one that serves."""

import os
import pickle
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sdxl_lightning_mcp.engine.acceleration.artefacts import Recipe
from sdxl_lightning_mcp.engine.acceleration.calls import Form, calls, named_tensors
from sdxl_lightning_mcp.engine.acceleration.readiness import make_ready
from sdxl_lightning_mcp.engine.memory import free_memory
from sdxl_lightning_mcp.engine.tuning import attention_order
from sdxl_lightning_mcp.engine.weights import build_networks

# Of the weights: they are there twice while a call is compiled.
MEMORY = 1.5


def main() -> None:
    """Compiles what stdin says, and ends when stdin does."""
    recipe, target, told = cast(tuple[Recipe, Path, Path], pickle.load(sys.stdin.buffer))
    threading.Thread(target=_end_with_the_parent, args=(target, told), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    compile_call(recipe, target)
    # At once: an orderly end would wait for the thread that waits for the parent.
    os._exit(0)


def compile_call(recipe: Recipe, target: Path) -> None:
    """Writes the compiled call, whole or not at all.

    Raises:
        MemoryError: The device has no room for the weights a second time.
        Exception: Whatever torch's compiler says.
    """
    device = recipe.tuning.device
    size = sum(dtype.itemsize * torch.Size(shape).numel() for shape, _, dtype in recipe.weights)
    if free_memory(device) < MEMORY * size:
        raise MemoryError(f"{size / 1e9:.1f} GB of weights do not fit beside those in use")
    networks = make_ready(build_networks(recipe.checkpoint), recipe.tuning)
    module = _WithWeights(calls(networks)[recipe.part])
    weights = [_hollow(form, device) for form in recipe.weights]
    inputs = [_hollow(form, device) for form in recipe.inputs]
    part = _part(target)
    with torch.no_grad(), attention_order(recipe.tuning):
        exported = torch.export.export(module, (weights, *inputs), strict=False)
        inductor: Any = import_module("torch._inductor")
        inductor.aoti_compile_and_package(exported, package_path=str(part))
    part.replace(target)


class _WithWeights(nn.Module):
    """A module that is told its weights at each call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names = [name for name, _ in named_tensors(module)]
        # Hidden from torch: as a submodule its weights would be exported too.
        self._hidden = (module,)

    def forward(self, weights: list[Tensor], *inputs: Tensor) -> Any:
        return functional_call(
            self._hidden[0], dict(zip(self._names, weights, strict=True)), inputs
        )


def _hollow(form: Form, device: torch.device) -> Tensor:
    shape, stride, dtype = form
    return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def _part(target: Path) -> Path:
    return target.with_suffix(f".{os.getpid()}.pt2")


def _end_with_the_parent(target: Path, told: Path) -> None:
    """Leaves nothing half done behind: neither a part of the file nor a log that nobody reads."""
    sys.stdin.buffer.read()
    for path in (_part(target), told):
        path.unlink(missing_ok=True)
    os._exit(1)


if __name__ == "__main__":
    main()
