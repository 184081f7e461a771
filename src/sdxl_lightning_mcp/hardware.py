"""What accelerator this machine has, seen without importing torch."""

import importlib
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Accelerator:
    """A device that runs SDXL in seconds: its name, and its memory in bytes."""

    kind: str
    name: str
    memory: int


def accelerator(visible_gpus: str | None = None) -> Accelerator | None:
    """The device that torch, as installed here, takes first; None where there is only a CPU.

    `visible_gpus` is CUDA_VISIBLE_DEVICES, where that is set.
    """
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Accelerator("mps", "Apple GPU", memory)
    return _nvidia(visible_gpus) if _torch_has_cuda() else None


def _torch_has_cuda() -> bool:
    """Whether torch was built with CUDA: it says so in a file of its own."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    text = Path(found.origin).with_name("version.py").read_text("utf-8")
    return re.search(r"^cuda\b.*=\s*['\"]\d", text, re.MULTILINE) is not None


def _nvidia(visible: str | None) -> Accelerator | None:
    """The first visible NVIDIA GPU, asked from the driver; where none is named, the largest."""
    # Untyped, and not worth its import time where there is no such GPU.
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        if visible is None:
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        else:
            first = visible.partition(",")[0].strip()
            handles = [
                nvml.nvmlDeviceGetHandleByIndex(int(first))
                if first.isdigit()
                else nvml.nvmlDeviceGetHandleByUUID(first)
            ]
        found = [
            Accelerator(
                "cuda",
                str(nvml.nvmlDeviceGetName(handle)),
                int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for handle in handles
        ]
        return max(found, key=lambda one: one.memory, default=None)
    except nvml.NVMLError:
        # Also where what is visible names no GPU, as "" and "-1" do.
        return None
    finally:
        nvml.nvmlShutdown()
