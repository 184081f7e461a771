"""What this device gets: device, data type, memory layout."""

import platform
from dataclasses import dataclass

import torch

from sdxl_lightning_mcp.engine.memory import Tier
from sdxl_lightning_mcp.errors import SettingsError


@dataclass(frozen=True)
class Tuning:
    """How the networks lie on the device."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    tier: Tier = Tier.RESIDENT

    def __str__(self) -> str:
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{self.device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"
        )
        data_type = str(self.dtype).removeprefix("torch.")
        where = "" if self.device.type == "cpu" else f", {self.tier}"
        return f"{name}, {data_type}, torch {torch.__version__}{where}"

    def vae_dtype(self, stays_in_float16: bool) -> torch.dtype:
        """The VAE's data type: SDXL's own one leaves float16's range and gives black pictures."""
        if self.dtype is not torch.float16 or stays_in_float16:
            return self.dtype
        halves = self.device.type == "cuda" and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
        return torch.bfloat16 if halves else torch.float32


def tune(wanted: str = "auto") -> Tuning:
    """Chooses for `wanted`: auto, cuda, mps or cpu. auto is the first that is here.

    On a CPU bfloat16 only where the processor multiplies it; elsewhere torch imitates it, slower
    than float32. float16 on GPUs, since it is what the checkpoints are stored in.

    Raises:
        SettingsError: That device is not here.
    """
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    kind = wanted if wanted != "auto" else next(name for name, present in here.items() if present)
    if not here[kind]:
        there = ", ".join(name for name, present in here.items() if present)
        raise SettingsError(
            f"The device {kind!r} is not seen by torch; here is: {there}. "
            "Choose one of these with SDXL_LIGHTNING_DEVICE, or auto."
        )
    if kind == "cpu":
        can = torch.cpu.get_capabilities()
        fast = bool(can.get("avx512_bf16") or can.get("amx_tile") or can.get("amx_bf16"))
        dtype = torch.bfloat16 if fast else torch.float32
    else:
        dtype = torch.float16
    return Tuning(torch.device(kind), dtype, torch.channels_last)


FLOAT32_CPU = Tuning(torch.device("cpu"), torch.float32, torch.contiguous_format)
"""The reference: bit for bit what diffusers' own pipeline computes with the same weights."""
