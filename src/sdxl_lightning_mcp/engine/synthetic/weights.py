"""Numbers for names and shapes, in safetensors files."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from sdxl_lightning_mcp.engine.synthetic.scale import Tensors

# What diffusers and transformers write into their files; Lightning's own files have no metadata.
FROM_PYTORCH = {"format": "pt"}


def seeded(shapes: Tensors, seed: int, gain: float = 1.0) -> Tensors:
    """Numbers that let signals through: torch's own range by fan-in, and norms around one."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(name: str, meta: torch.Tensor) -> torch.Tensor:
        if meta.ndim > 1:
            bound = gain / math.sqrt(meta[0].numel())
            values = torch.empty(meta.shape).uniform_(-bound, bound, generator=generator)
        else:
            values = torch.empty(meta.shape).uniform_(-0.1, 0.1, generator=generator)
            if name.endswith(".weight"):
                values += 1
        return values.to(meta.dtype)

    return {name: numbers(name, meta) for name, meta in shapes.items()}


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file; its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata
    )
