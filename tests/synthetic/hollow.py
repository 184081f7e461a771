"""Safetensors files without numbers, and how large files are."""

import json
from pathlib import Path

import torch

from sdxl_lightning_mcp.engine.synthetic.scale import Tensors

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


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
