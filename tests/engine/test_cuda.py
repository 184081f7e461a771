"""The engine on an NVIDIA GPU, held against the reference on the CPU."""

import numpy as np
import pytest
import torch

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import tune
from sdxl_lightning_mcp.request import Parameters

pytestmark = pytest.mark.gpu


def drawn(sdxl: Sdxl, parameters: Parameters) -> np.ndarray:
    sample = sdxl.prepare("a", parameters)
    while not sample.denoised:
        sdxl.denoise([sample])
    return np.asarray(sdxl.decode(sample), dtype=np.float64)


def test_a_gpu_draws_the_cpus_picture_up_to_rounding(mini: Sdxl, parameters: Parameters) -> None:
    assert torch.cuda.is_available()
    on_gpu = drawn(Sdxl.open(MINI.checkpoint, tune("cuda")), parameters)
    error = np.mean((on_gpu - drawn(mini, parameters)) ** 2)
    assert 10 * np.log10(255**2 / error) > 35  # dB
