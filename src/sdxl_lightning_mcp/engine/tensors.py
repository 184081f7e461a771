"""Reading tensors out of safetensors files, one at a time.

With plain reads and not through mapped memory: a mapped file is brought in page by page when it is
touched, which is several times slower than reading it.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor

from sdxl_lightning_mcp.inspection import read_header

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
}


class TensorFile:
    """An open safetensors file: its tensors' names and shapes, and each when it is asked for.

    Raises:
        WeightsError: The file cannot be read, or is cut short.
    """

    def __init__(self, path: Path, pin: bool = False) -> None:
        header = read_header(path)
        header.pop("__metadata__", None)
        self._places = {
            name: (_TYPES[entry["dtype"]], entry["data_offsets"][0])
            for name, entry in header.items()
            if entry["dtype"] in _TYPES
        }
        self.shapes = {name: torch.Size(header[name]["shape"]) for name in self._places}
        self._file = path.open("rb", buffering=0)
        self._start = 8 + int.from_bytes(self._file.read(8), "little")
        largest = max((self._size(name) for name in self.shapes), default=0)
        self._buffer = torch.empty(largest, dtype=torch.uint8, pin_memory=pin)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def window(self, name: str) -> Tensor:
        """A tensor in a buffer that the next call overwrites; pinned, where that was asked for."""
        return self._read(name, self._buffer[: self._size(name)])

    def read(self, name: str) -> Tensor:
        """A tensor in memory of its own."""
        return self._read(name, torch.empty(self._size(name), dtype=torch.uint8))

    def _read(self, name: str, memory: Tensor) -> Tensor:
        dtype, offset = self._places[name]
        into = memoryview(cast(Any, memory.numpy()))
        self._file.seek(self._start + offset)
        have = 0
        while have < len(into):
            count = self._file.readinto(into[have:])
            if not count:
                raise OSError(f"{self._file.name} ended too early")
            have += count
        return memory.view(dtype).view(self.shapes[name])

    def _size(self, name: str) -> int:
        return self.shapes[name].numel() * self._places[name][0].itemsize
