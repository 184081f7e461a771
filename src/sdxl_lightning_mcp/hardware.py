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


def accelerator() -> Accelerator | None:
    """The best device that torch, as installed here, can use; None where there is only a CPU."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Accelerator("mps", "Apple GPU", memory)
    return _nvidia() if _torch_has_cuda() else None


def _torch_has_cuda() -> bool:
    """Whether torch was built with CUDA: it says so in a file of its own."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    text = Path(found.origin).with_name("version.py").read_text("utf-8")
    return re.search(r"^cuda\b.*=\s*['\"]\d", text, re.MULTILINE) is not None


def _nvidia() -> Accelerator | None:
    """The NVIDIA GPU with the most memory, asked from the driver."""
    # Untyped, and not worth its import time where there is no such GPU.
    pynvml: Any = importlib.import_module("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = [
            Accelerator(
                "cuda",
                str(pynvml.nvmlDeviceGetName(device)),
                int(pynvml.nvmlDeviceGetMemoryInfo(device).total),
            )
            for device in devices
        ]
        return max(found, key=lambda one: one.memory, default=None)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
