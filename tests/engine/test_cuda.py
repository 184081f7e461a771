"""The engine on an NVIDIA GPU, held against the reference on the CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from repositories import small_model

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.memory import Tier
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import tune
from sdxl_lightning_mcp.request import Parameters

pytestmark = pytest.mark.gpu


def drawn(sdxl: Sdxl, parameters: Parameters) -> np.ndarray:
    sample = sdxl.prepare("a", parameters)
    while not sample.denoised:
        sdxl.denoise([sample])
    return np.asarray(sdxl.decode(sample), dtype=np.float64)


@pytest.mark.parametrize("tier", Tier)
def test_every_tier_draws_the_same_picture_on_a_gpu_also_after_a_rest_and_another_file(
    repositories: Path, tier: Tier
) -> None:
    four, eight, _ = small_model(repositories).checkpoints
    wish = Parameters(
        model="small",
        checkpoint=four.name,
        prompt="a house by the sea",
        negative_prompt="a boat",
        seed=3,
        width=512,
        height=512,
        guidance=2.0,
        steps=4,
    )
    resident = drawn(Sdxl.open(four, tune("cuda")), wish)
    ours = Sdxl.open(four, replace(tune("cuda"), tier=tier), [eight])
    assert np.array_equal(drawn(ours, wish), resident)
    held = torch.cuda.memory_allocated()
    ours.held.rest()
    assert torch.cuda.memory_allocated() < held
    assert np.array_equal(drawn(ours, wish), resident)
    drawn(ours, wish.model_copy(update={"checkpoint": eight.name}))
    assert np.array_equal(drawn(ours, wish), resident)


def test_a_gpu_draws_the_cpus_picture_up_to_rounding(mini: Sdxl, parameters: Parameters) -> None:
    assert torch.cuda.is_available()
    on_gpu = drawn(Sdxl.open(MINI.checkpoint, tune("cuda")), parameters)
    error = np.mean((on_gpu - drawn(mini, parameters)) ** 2)
    assert 10 * np.log10(255**2 / error) > 35  # dB
