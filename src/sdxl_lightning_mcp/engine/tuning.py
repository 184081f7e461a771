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
    return Tuning(torch.device(name), dtype, torch.channels_last)


def share_cores(workers: int) -> None:
    """Takes only this process's share of the processor, which so many workers have among them."""
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


FLOAT32_CPU = Tuning(torch.device("cpu"), torch.float32, torch.contiguous_format)
"""The reference: bit for bit what diffusers' own pipeline computes with the same weights."""
