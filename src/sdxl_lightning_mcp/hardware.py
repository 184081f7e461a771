"""What accelerators this machine has, seen without importing torch."""

import importlib
import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Accelerator:
    """A device that runs SDXL in seconds: its name, its memory in bytes, its UUID for CUDA."""

    kind: str
    name: str
    memory: int
    uuid: str = ""


def accelerators(visible_gpus: str | None = None) -> tuple[Accelerator, ...]:
    """The devices that torch, as installed here, can take; none where there is only a CPU.

    NVIDIA GPUs come in the order of nvidia-smi, or in that of `visible_gpus`, which is
    CUDA_VISIBLE_DEVICES, where that is set.
    """
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return (Accelerator("mps", "Apple GPU", memory),)
    return _nvidia(visible_gpus) if _torch_has_cuda() else ()


def _torch_has_cuda() -> bool:
    """Whether torch was built with CUDA: it says so in a file of its own."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    text = Path(found.origin).with_name("version.py").read_text("utf-8")
    return re.search(r"^cuda\b.*=\s*['\"]\d", text, re.MULTILINE) is not None


def _nvidia(visible: str | None) -> tuple[Accelerator, ...]:
    """The visible NVIDIA GPUs, asked from the driver."""
    # Untyped, and not worth its import time where there is no such GPU.
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        if visible is None:
            handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        else:
            handles = _named(nvml, visible)
        return tuple(
            Accelerator(
                "cuda",
                str(nvml.nvmlDeviceGetName(handle)),
                int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                str(nvml.nvmlDeviceGetUUID(handle)),
            )
            for handle in handles
        )
    except nvml.NVMLError:
        return ()
    finally:
        nvml.nvmlShutdown()


def _named(nvml: Any, visible: str) -> Iterator[Any]:
    """The GPUs that numbers and UUIDs name; CUDA, too, looks no further than one that is none."""
    for word in map(str.strip, visible.split(",")):
        try:
            if word.isdigit():
                yield nvml.nvmlDeviceGetHandleByIndex(int(word))
            else:
                yield nvml.nvmlDeviceGetHandleByUUID(word)
        except nvml.NVMLError:
            return
