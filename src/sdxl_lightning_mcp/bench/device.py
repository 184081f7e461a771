"""What the device can do, and what of it the engine in this process takes."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdxl_lightning_mcp.library import LoadedModel
from sdxl_lightning_mcp.request import Parameters

if TYPE_CHECKING:
    import torch

# Large enough to be bound by arithmetic, small enough to take no more than about a second.
SIDES = {"cuda": 8192, "mps": 4096, "cpu": 2048}
REPETITIONS = 8


def data_type(device: str) -> str:
    """Torch's name of the data type that the engine takes on a device: auto, cuda, mps or cpu."""
    from sdxl_lightning_mcp.engine.tuning import tune

    return str(tune(device).dtype).removeprefix("torch.")


def work(loaded: LoadedModel, parameters: Parameters) -> int:
    """Floating-point operations of one picture: all calls of the UNet and one of the decoder.

    Counted by torch on networks without weights. Text encoders are left out, and everything that
    is no matrix product and no convolution.
    """
    from sdxl_lightning_mcp.engine.estimate import Estimator

    return Estimator(loaded.engine.sdxl).flops(parameters)


def ceiling(loaded: LoadedModel) -> float:
    """The most floating-point operations a second that a large matrix product reaches here.

    In the networks' data type, on their device; the best of some tries.
    """
    import torch

    tuning = loaded.engine.sdxl.tuning
    side = SIDES[tuning.device.type]
    # Numbers as networks have them: a GPU multiplies zeros with less power, and so faster.
    left, right = (torch.randn(side, side).to(tuning.device, tuning.dtype) for _ in range(2))
    best = 0.0
    for _ in range(REPETITIONS):
        _wait_for(tuning.device)
        begun = time.perf_counter()
        torch.mm(left, right)
        _wait_for(tuning.device)
        best = max(best, 2 * side**3 / (time.perf_counter() - begun))
    return best


@contextmanager
def peak_memory(loaded: LoadedModel) -> Generator[dict[str, int]]:
    """The most bytes that torch has allocated on a GPU meanwhile; empty where it does not count."""
    import torch

    peak: dict[str, int] = {}
    device = loaded.engine.sdxl.tuning.device
    if device.type != "cuda":
        yield peak
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield peak
    peak["engine on the GPU, peak that torch allocated"] = torch.cuda.max_memory_allocated(device)


def _wait_for(device: "torch.device") -> None:
    import torch

    if device.type != "cpu":
        (torch.cuda if device.type == "cuda" else torch.mps).synchronize()
