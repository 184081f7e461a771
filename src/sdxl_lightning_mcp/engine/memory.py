"""How much of a model lies on the device: memory tiers, and moving weights to the host and back."""

import ctypes
import gc
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from sdxl_lightning_mcp.errors import DeviceMemoryError

# What CUDA's context, its workspaces and fragments take beside weights and activations.
MARGIN = 500e6
# Bytes at a decoder's peak, in units of pixels x narrowest width x bytes of the data type: SDXL's
# decoder at 1024x1024 holds 1.5 GiB in half precision.
DECODER_PEAK = 6
NATIVE_PIXELS = 1024 * 1024
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
# Parameters of mallopt(3) and the largest value it takes; before 2.35, glibc took no threshold for
# mapped blocks above 32 MiB.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST, _MOST_ONCE = 2**31 - 1, 32 * 2**20
TILE = 512


class Tier(IntEnum):
    """What lies on the device, from all to little."""

    RESIDENT = 0
    PARKED = 1
    STREAMED = 2

    def __str__(self) -> str:
        return {
            Tier.RESIDENT: "all on the device",
            Tier.PARKED: "text encoders in host memory, large pictures in tiles",
            Tier.STREAMED: "UNet streamed from host memory, VAE in tiles",
        }[self]


@dataclass(frozen=True)
class Needs:
    """Bytes of a model's parts on the device; `decoding` is the VAE's peak at the native size."""

    unet: int
    vae: int
    text_encoders: int
    decoding: int

    def of(self, tier: Tier) -> float:
        """Bytes that a tier takes at its peak."""
        match tier:
            case Tier.RESIDENT:
                needed = self.unet + self.vae + self.text_encoders + self.decoding
            case Tier.PARKED:
                needed = self.unet + self.vae + max(self.text_encoders, self.decoding)
            case Tier.STREAMED:
                tiled = self.decoding * TILE * TILE // NATIVE_PIXELS
                needed = self.unet // 20 + self.vae + max(self.text_encoders, tiled)
        return needed + MARGIN

    @classmethod
    def measure(
        cls, unet: Any, vae: Any, text_encoders: tuple[Any, ...], item: int, vae_item: int
    ) -> "Needs":
        """From networks that may lie on the meta device.

        `item` and `vae_item` are bytes of a number in the networks' data type and in the VAE's.
        """

        def size(item: int, *networks: nn.Module) -> int:
            tensors = itertools.chain(*(network.parameters() for network in networks))
            return sum(tensor.numel() for tensor in tensors) * item

        narrowest = min(
            vae.config.get("block_out_channels") or vae.config.decoder_block_out_channels
        )
        decoding = DECODER_PEAK * NATIVE_PIXELS * narrowest * vae_item
        return cls(size(item, unet), size(vae_item, vae), size(item, *text_encoders), decoding)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def choose_tier(needs: Needs, free: float, device_type: str, least: Tier = Tier.RESIDENT) -> Tier:
    """The first tier, from `least` on, that fits into `free` bytes.

    On a CPU there is nothing to move weights to: all fits or nothing.

    Raises:
        DeviceMemoryError: None fits; says what is needed, what is there, and what else can be done.
    """
    if device_type == "cpu":
        if needs.of(Tier.RESIDENT) - MARGIN <= free:
            return least
        needed, cures = needs.of(Tier.RESIDENT) - MARGIN, "--model mini runs anywhere"
    else:
        for tier in Tier:
            if tier >= least and needs.of(tier) <= free:
                return tier
        needed = needs.of(Tier.STREAMED)
        cures = "--device cpu is slow but needs no GPU, --model mini runs anywhere"
    raise DeviceMemoryError(
        f"The model needs {needed / 1e9:.1f} GB of memory on the {device_type} device and "
        f"{free / 1e9:.1f} GB are free. Close what else uses it, or: {cures}."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory did not suffice."""
    # The last is oneDNN's, on a CPU: it was seen there under a limit of memory.
    words = (
        *("out of memory", "can't allocate memory", "not enough memory", "alloc_failed"),
        "could not create a primitive",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def keep_memory(device: torch.device) -> None:
    """Lets this process keep the large blocks that a network on a CPU frees, for its next ones.

    glibc hands them back to the system and gets them anew, page by page, at each layer. For
    processes of our own, since it changes all of a process; `release_memory` still gives back.
    Other C libraries are left as they are.
    """
    if device.type != "cpu" or not hasattr(_C_LIBRARY, "mallopt"):
        return
    if not _C_LIBRARY.mallopt(_MMAP_THRESHOLD, _MOST):
        _C_LIBRARY.mallopt(_MMAP_THRESHOLD, _MOST_ONCE)
    _C_LIBRARY.mallopt(_TRIM_THRESHOLD, _MOST)


def release_memory(device: torch.device) -> None:
    """Gives back what torch keeps for later."""
    gc.collect()
    if hasattr(_C_LIBRARY, "malloc_trim"):
        _C_LIBRARY.malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        # Pinned blocks are kept for later, too, and are rounded up to powers of two.
        torch.accelerator.memory.empty_host_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class Residence:
    """A network's weights, on the device or in host memory.

    Weights never change, so a host copy stays good: leaving again only drops the device's.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network = network
        self._device = device
        self._host: list[Tensor] | None = None

    def leave(self) -> None:
        """Lets go of the device's memory; host memory is pinned where that makes bringing fast."""
        with torch.inference_mode(False):
            if self._host is None:
                pin = self._device.type == "cuda"
                self._host = [
                    torch.empty_like(tensor, device="cpu", pin_memory=pin).copy_(tensor)
                    for tensor in self._tensors()
                ]
            for tensor, host in zip(self._tensors(), self._host, strict=True):
                tensor.data = host

    def bring(self, keep_host: bool = False) -> None:
        """Puts the weights back on the device; a host copy that is not kept is freed."""
        with torch.inference_mode(False):
            for tensor in self._tensors():
                pinned = self._device.type == "cuda"
                tensor.data = tensor.data.to(self._device, non_blocking=pinned)
        if not keep_host and self._host is not None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._host = None
            release_memory(self._device)

    def _tensors(self) -> Iterator[Tensor]:
        return itertools.chain(self._network.parameters(), self._network.buffers())
