"""A stand-in for NVIDIA's driver and for torch with CUDA, as what imports them finds them.

It has two GPUs. torch is only looked at; a worker that imports it is told which GPU it would see.
"""

import os
from pathlib import Path

import pytest

T400, H200 = "GPU-11111111-aaaa", "GPU-22222222-bbbb"

NVML = f"""
from types import SimpleNamespace

class NVMLError(Exception):
    pass

GPUS = [("NVIDIA T400", 4_000_000_000, "{T400}"), ("NVIDIA H200", 150_000_000_000, "{H200}")]

def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return len(GPUS)
def nvmlDeviceGetName(handle): return handle[0]
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=handle[1])
def nvmlDeviceGetUUID(handle): return handle[2]

def nvmlDeviceGetHandleByIndex(index):
    if index >= len(GPUS):
        raise NVMLError("Invalid Argument")
    return GPUS[index]

def nvmlDeviceGetHandleByUUID(uuid):
    for handle in GPUS:
        if handle[2] == uuid:
            return handle
    raise NVMLError("Not Found")
"""
TORCH = """
import os
raise ImportError(f"it would see {os.environ.get('CUDA_VISIBLE_DEVICES')}")
"""


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the two before the real ones, for processes that are started from now on."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(TORCH)
    (folder / "torch" / "version.py").write_text("cuda: str | None = '13.0'\n")
    (folder / "pynvml.py").write_text(NVML)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), before])))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
