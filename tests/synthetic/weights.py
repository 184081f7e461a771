"""Numbers for names and shapes, and the safetensors files that hold them."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from .scale import Tensors

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
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
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata
    )


def write_hollow(path: Path, tensors: Tensors) -> None:
    """A file of zeros that takes no room on the disk, so that shapes may be as wide as real ones.

    The tensors may lie on the meta device.
    """
    header = _header(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file_size(tensors))


def file_size(tensors: Tensors, metadata: dict[str, str] | None = None) -> int:
    """How many bytes a safetensors file with these tensors has."""
    return 8 + len(_header(tensors, metadata)) + sum(tensor.nbytes for tensor in tensors.values())


def _header(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """Compact JSON: the widest type first, then by name, padded to a multiple of eight."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    return text.ljust(-(-len(text) // 8) * 8)
