"""What this device gets: data type, memory layout, and what makes it faster."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdxl_lightning_mcp.engine.memory import Tier
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.settings import Speed

# The first generation that multiplies 8-bit floating point numbers (Ada), and cuDNN's order:
# its attention is the fastest on Hopper (arXiv 2407.08608, figure 5) but for an extra package.
FLOAT8_SINCE = (8, 9)
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
TOGETHER_ON_CUDA = 8
# At these speeds more is rounded, where the device gains by that.
FREE = (Speed.FAST, Speed.DRAFT)


@dataclass(frozen=True)
class Tuning:
    """How the networks lie on the device, and how they are called.

    `together` is how many samples may share a UNet call. `compiled` are the parts that are compiled
    in the background, `graphs` is whether calls are replayed as CUDA graphs, `float8` whether the
    UNet's large linear layers are rounded to 8 bits, `float16_sums` whether products of 16 bits are
    added up in as many.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    tier: Tier = Tier.RESIDENT
    speed: Speed = Speed.NORMAL
    together: int = 1
    compiled: tuple[str, ...] = ()
    graphs: bool = False
    float8: bool = False
    float16_sums: bool = False

    def __str__(self) -> str:
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{self.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
        )
        data_type = str(self.dtype).removeprefix("torch.")
        where = "" if self.device.type == "cpu" else f", {self.tier}"
        faster = ["compiling in the background"] * bool(self.compiled)
        faster += ["CUDA graphs"] * self.graphs + ["8-bit linear layers"] * self.float8
        faster += ["16-bit sums"] * self.float16_sums
        if self.speed in FREE and not self._gains:
            faster.append(
                "as normal here" if self.speed is Speed.FAST else "faster by its VAE only"
            )
        speed = "" if self.speed is Speed.NORMAL else f", {self.speed}"
        used = f" ({', '.join(faster)})" if faster else ""
        return f"{name}, {data_type}, torch {torch.__version__}{where}{speed}{used}"

    @property
    def _gains(self) -> bool:
        """Whether anything is done here that only `fast` does."""
        only_fast = bool(self.compiled) and self.device.type == "cpu"
        return only_fast or self.float8 or self.float16_sums

    def at(self, tier: Tier) -> "Tuning":
        """With less on the device: what makes it faster takes memory, too."""
        if tier is Tier.RESIDENT:
            return replace(self, tier=tier)
        small = self.float8 and tier < Tier.STREAMED
        return replace(self, tier=tier, together=1, compiled=(), graphs=False, float8=small)

    def vae_dtype(self, stays_in_float16: bool) -> torch.dtype:
        """The VAE's data type: SDXL's own one leaves float16's range and gives black pictures."""
        if self.dtype is not torch.float16 or stays_in_float16:
            return self.dtype
        halves = self.device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if halves else torch.float32


def tune(wanted: str = "auto", speed: Speed = Speed.NORMAL) -> Tuning:
    """Chooses for `wanted`: auto, cuda, cuda:1, mps or cpu. auto is the first that is here.

    On a CPU bfloat16 only where the processor multiplies it; elsewhere torch imitates it, slower
    than float32. float16 on GPUs, since it is what the checkpoints are stored in.

    Raises:
        SettingsError: That device is not here.
    """
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.insert(0, "mps")
    if torch.cuda.is_available():
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *here]
    name = here[0] if wanted == "auto" else wanted
    if name not in here:
        raise SettingsError(
            f"The device {name!r} is not seen by torch; here is: {', '.join(here)}. "
            "Choose one of these with SDXL_LIGHTNING_DEVICE, or auto."
        )
    if name == "cpu":
        can = torch.cpu.get_capabilities()
        fast = bool(can.get("avx512_bf16") or can.get("amx_tile") or can.get("amx_bf16"))
        dtype = torch.bfloat16 if fast else torch.float32
    else:
        dtype = torch.float16
    device, free = torch.device(name), speed in FREE
    tuning = Tuning(device, dtype, torch.channels_last, speed=speed)
    if speed is Speed.EXACT:
        _repeat_bit_for_bit()
    if device.type == "cuda" and speed is not Speed.EXACT:
        torch.backends.cudnn.benchmark = True
        # GeForce adds 16-bit products up in 16 bits at twice the rate of in 32.
        halves = free and "GeForce" in torch.cuda.get_device_name(device)
        torch.backends.cuda.matmul.allow_fp16_accumulation = halves
        return replace(
            tuning,
            together=TOGETHER_ON_CUDA,
            compiled=("unet", "decoder"),
            graphs=True,
            float8=free and torch.cuda.get_device_capability(device) >= FLOAT8_SINCE,
            float16_sums=halves,
        )
    if device.type == "cpu" and free:
        return replace(tuning, compiled=("unet", "decoder"))
    return tuning


def _repeat_bit_for_bit() -> None:
    """Lets this process choose nothing by timing, and add nothing up in a changing order."""
    # cuBLAS reads it when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    # A step that has no such way is done all the same.
    torch.use_deterministic_algorithms(True, warn_only=True)


def attention_order(tuning: Tuning) -> AbstractContextManager[object]:
    """Within it CUDA's attention is the fastest that the device has."""
    if tuning.device.type != "cuda" or tuning.speed is Speed.EXACT:
        return nullcontext()
    order: Any = sdpa_kernel
    return order(ATTENTION, set_priority=True)


def share_cores(workers: int) -> None:
    """Takes only this process's share of the processor, which so many workers have among them."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


FLOAT32_CPU = Tuning(torch.device("cpu"), torch.float32, torch.contiguous_format)
"""The reference: bit for bit what diffusers' own pipeline computes with the same weights."""
