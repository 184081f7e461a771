"""What makes calls faster: recorded, compiled, rounded; each held to the picture as it was."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from support import drawn, drawn_together, psnr
from torch import Tensor

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.acceleration.artefacts import Artefacts
from sdxl_lightning_mcp.engine.acceleration.float8 import Float8Linear, round_linears
from sdxl_lightning_mcp.engine.acceleration.graphs import (
    MOST,
    RECORDED_AT,
    Call,
    Capture,
    Graphs,
    Outputs,
)
from sdxl_lightning_mcp.engine.holding import Holding
from sdxl_lightning_mcp.engine.memory import Tier
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU, Tuning, tune
from sdxl_lightning_mcp.engine.weights import build_networks, fill_networks
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.settings import Speed


class RecordedOnCpu:
    """Records as CUDA does, seen from outside: fixed inputs, fixed outputs, computed at replay."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.replays = 0

    def __call__(self, call: Call, inputs: tuple[Tensor, ...]) -> Callable[[], Outputs]:
        self.recorded.append(inputs[0].shape[0])
        outputs = call(*inputs)
        places = outputs if isinstance(outputs, tuple) else (outputs,)

        def replay() -> Outputs:
            self.replays += 1
            fresh = call(*inputs)
            made = fresh if isinstance(fresh, tuple) else (fresh,)
            for place, one in zip(places, made, strict=True):
                place.copy_(one)
            return outputs

        return replay


@pytest.fixture
def capture() -> RecordedOnCpu:
    return RecordedOnCpu()


def opened(
    tuning: Tuning = FLOAT32_CPU,
    artefacts: Artefacts | None = None,
    capture: Capture | None = None,
) -> Sdxl:
    networks = build_networks(MINI.checkpoint)
    fill_networks(networks, MINI.checkpoint, tuning)
    held = Holding(MINI.checkpoint, networks, tuning, artefacts, capture)
    return Sdxl(held, [MINI.checkpoint])


def test_recorded_calls_give_the_picture_that_plain_ones_give(
    mini: Sdxl, parameters: Parameters, capture: RecordedOnCpu
) -> None:
    sdxl = opened(capture=capture)
    for seed in (1, 2, 3, 4):
        wish = parameters.model_copy(update={"seed": seed})
        assert psnr(drawn(sdxl, wish), drawn(mini, wish)) == 100
    # The UNet's third call of its kind is recorded, and the decoder's.
    assert len(capture.recorded) == 2
    assert capture.replays == (4 * 4 - 2) + (4 - 2)


def test_batches_are_padded_so_that_few_sizes_are_recorded(
    mini: Sdxl, parameters: Parameters, capture: RecordedOnCpu
) -> None:
    sdxl = opened(capture=capture)
    wishes = [parameters.model_copy(update={"seed": seed}) for seed in range(3)]
    alone = [drawn(mini, wish) for wish in wishes]
    for picture, expected in zip(drawn_together(sdxl, *wishes), alone, strict=True):
        assert psnr(picture, expected) > 60
    assert capture.recorded[0] == 4


def test_recordings_are_forgotten_when_the_weights_move(
    parameters: Parameters, capture: RecordedOnCpu
) -> None:
    sdxl = opened(capture=capture)
    before = drawn(sdxl, parameters)
    recorded = len(capture.recorded)
    sdxl.held.rest()
    assert psnr(before, drawn(sdxl, parameters)) == 100
    assert len(capture.recorded) == recorded + 1


def test_the_oldest_recording_goes_when_there_are_many(capture: RecordedOnCpu) -> None:
    graphs = Graphs(capture)
    for length in range(1, MOST + 2):
        for _ in range(RECORDED_AT):
            assert torch.equal(
                graphs("double", torch.add, *2 * [torch.ones(length)]), torch.full((length,), 2.0)
            )
    again = torch.ones(1)
    graphs("double", torch.add, again, again)
    assert capture.recorded == [*range(1, MOST + 2), 1]


def test_what_cannot_be_recorded_is_computed_as_it_is() -> None:
    def refuse(call: Call, inputs: tuple[Tensor, ...]) -> Callable[[], Outputs]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(refuse)
    ones = torch.ones(3)
    for _ in range(RECORDED_AT + 2):
        assert torch.equal(graphs("double", torch.add, ones, ones), ones + ones)


def test_linear_layers_in_8_bits_keep_the_picture(mini: Sdxl, parameters: Parameters) -> None:
    sdxl = opened()
    # mini's layers are narrow; the limit spares them where it is about speed.
    assert round_linears(sdxl.held.networks.unet) == 0
    assert round_linears(sdxl.held.networks.unet, least=16) > 10
    assert psnr(drawn(sdxl, parameters), drawn(mini, parameters)) > 25


def test_a_row_of_zeros_in_8_bits_is_a_row_of_zeros() -> None:
    layer = torch.nn.Linear(32, 16, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight[3] = 0
    outputs = Float8Linear(layer)(torch.zeros(2, 32, dtype=torch.bfloat16))
    assert torch.equal(outputs, torch.zeros(2, 16, dtype=torch.bfloat16))


def test_normal_pictures_of_a_shared_call_are_near_those_made_alone(
    mini: Sdxl, parameters: Parameters
) -> None:
    half = Sdxl.open(MINI.checkpoint, tune("cpu"))
    wishes = [parameters.model_copy(update={"seed": seed}) for seed in range(4)]
    for picture, wish in zip(drawn_together(half, *wishes), wishes, strict=True):
        assert psnr(picture, drawn(half, wish)) > 40
        assert psnr(picture, drawn(mini, wish)) > 30


def test_exact_pictures_are_the_same_bit_for_bit(parameters: Parameters) -> None:
    one, other = (
        drawn(Sdxl.open(MINI.checkpoint, tune("cpu", Speed.EXACT)), parameters) for _ in range(2)
    )
    assert np.array_equal(np.asarray(one), np.asarray(other))


def test_where_nothing_makes_it_faster_the_device_says_so() -> None:
    apple = Tuning(torch.device("mps"), torch.float16, torch.channels_last)
    assert str(apple).endswith("all on the device")
    assert str(replace(apple, speed=Speed.FAST)).endswith("fast (as normal here)")
    assert str(replace(apple, speed=Speed.DRAFT)).endswith("draft (faster by its VAE only)")
    rounded = replace(apple, speed=Speed.FAST, float8=True)
    assert str(rounded.at(Tier.PARKED)).endswith("fast (8-bit linear layers)")
    assert str(rounded.at(Tier.STREAMED)).endswith("fast (as normal here)")
    assert str(tune("cpu", Speed.FAST)).endswith("fast (compiling in the background)")


@pytest.mark.slow
def test_compiled_calls_come_in_the_background_and_are_there_at_once_the_next_time(
    parameters: Parameters, tmp_path: Path
) -> None:
    tuning = tune("cpu", Speed.FAST)
    plain = drawn(opened(replace(tuning, compiled=())), parameters)
    sdxl = opened(tuning, Artefacts(tmp_path))
    # The UNet, then the decoder, whose fourth call comes with the fourth picture.
    for _ in tuning.compiled:
        while not (compilers := psutil.Process().children()):
            assert psnr(drawn(sdxl, parameters), plain) > 40
        compilers[0].wait()
    assert psnr(drawn(sdxl, parameters), plain) > 40
    assert sdxl.held.way[1] == 2
    made = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = opened(tuning, Artefacts(tmp_path))
    assert psnr(drawn(again, parameters), plain) > 40
    assert again.held.way[1] == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == made
