"""The engine on an NVIDIA GPU, held against the reference on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from repositories import small_model
from support import drawn, psnr

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.acceleration.artefacts import Artefacts
from sdxl_lightning_mcp.engine.acceleration.graphs import RECORDED_AT, CudaCapture
from sdxl_lightning_mcp.engine.holding import Holding
from sdxl_lightning_mcp.engine.memory import Tier
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import tune
from sdxl_lightning_mcp.engine.weights import build_networks, fill_networks
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.settings import Speed

pytestmark = pytest.mark.gpu


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
    exact = tune("cuda", Speed.EXACT)
    resident = drawn(Sdxl.open(four, exact), wish)
    ours = Sdxl.open(four, exact.at(tier), [eight])
    first = drawn(ours, wish)
    # What is streamed keeps its layers as they are, so that sums are rounded otherwise.
    assert np.array_equal(first, resident) or psnr(first, resident) > 40
    held = torch.cuda.memory_allocated()
    ours.held.rest()
    assert torch.cuda.memory_allocated() < held
    assert np.array_equal(drawn(ours, wish), first)
    drawn(ours, wish.model_copy(update={"checkpoint": eight.name}))
    assert np.array_equal(drawn(ours, wish), first)


def test_a_gpu_draws_the_cpus_picture_up_to_rounding(mini: Sdxl, parameters: Parameters) -> None:
    assert torch.cuda.is_available()
    on_gpu = drawn(Sdxl.open(MINI.checkpoint, tune("cuda")), parameters)
    assert psnr(on_gpu, drawn(mini, parameters)) > 35


@pytest.mark.parametrize("speed", Speed)
def test_at_every_speed_recorded_and_compiled_calls_keep_the_picture(
    mini: Sdxl, parameters: Parameters, speed: Speed, tmp_path: Path
) -> None:
    tuning = tune("cuda", speed)
    networks = build_networks(MINI.checkpoint)
    fill_networks(networks, MINI.checkpoint, tuning)
    capture = CudaCapture(tuning.device) if tuning.graphs else None
    sdxl = Sdxl(
        Holding(MINI.checkpoint, networks, tuning, Artefacts(tmp_path), capture), [MINI.checkpoint]
    )
    expected = drawn(mini, parameters)
    before = sdxl.held.way[1]
    while True:
        assert psnr(drawn(sdxl, parameters), expected) > 35
        if sdxl.held.way[1] == before + len(tuning.compiled):
            break
    # Once more than it takes to record what was compiled.
    for _ in range(RECORDED_AT + 1):
        assert psnr(drawn(sdxl, parameters), expected) > 35


def test_exact_pictures_on_a_gpu_are_the_same_bit_for_bit(parameters: Parameters) -> None:
    opened = [Sdxl.open(MINI.checkpoint, tune("cuda", Speed.EXACT)) for _ in range(2)]
    assert np.array_equal(*(drawn(sdxl, parameters) for sdxl in opened))
