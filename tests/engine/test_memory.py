"""What lies on the device, and what happens where its memory does not suffice."""

import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from repositories import small_model
from support import PATIENCE, drawn

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.engine import Engine
from sdxl_lightning_mcp.engine.estimate import Estimator
from sdxl_lightning_mcp.engine.holding import Holding
from sdxl_lightning_mcp.engine.memory import Needs, Residence, Tier, choose_tier
from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU, Tuning
from sdxl_lightning_mcp.errors import DeviceMemoryError, RunFailedError
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Admitted, Failed, Finished

# SDXL in half precision: UNet, VAE, text encoders, and the decoder's peak at 1024x1024.
SDXL = Needs(5_134_927_368, 167_307_726, 1_635_440_640, 1_610_612_736)


@pytest.mark.parametrize(
    ("card", "desktop", "tier"),
    [
        (24, 1.0, Tier.RESIDENT),
        (12, 1.0, Tier.RESIDENT),
        (10, 1.0, Tier.RESIDENT),
        (8, 0.4, Tier.PARKED),
        (6, 1.0, Tier.STREAMED),
        (4, 0.4, Tier.STREAMED),
    ],
)
def test_the_tier_follows_from_the_memory_that_is_free(
    card: int, desktop: float, tier: Tier
) -> None:
    assert choose_tier(SDXL, (card - desktop) * 2**30, "cuda") is tier


def test_a_device_that_holds_no_tier_is_refused_with_what_else_can_be_done() -> None:
    with pytest.raises(DeviceMemoryError, match=r"needs 2\.\d GB .* 1\.0 GB are free.*mini"):
        choose_tier(SDXL, 1e9, "cuda")
    with pytest.raises(DeviceMemoryError, match=r"needs 8\.5 GB of memory on the cpu"):
        choose_tier(SDXL, 4e9, "cpu")


def test_what_ran_short_is_not_tried_again() -> None:
    assert choose_tier(SDXL, 24e9, "cuda", least=Tier.PARKED) is Tier.PARKED


@pytest.fixture
def wish() -> Parameters:
    return Parameters(
        model="small",
        checkpoint="small_4step_unet",
        prompt="a house by the sea",
        negative_prompt="a boat",
        seed=3,
        width=256,
        height=256,
        guidance=2.0,
        steps=2,
    )


@pytest.mark.parametrize("tier", [Tier.PARKED, Tier.STREAMED])
def test_less_on_the_device_draws_the_same_picture(
    repositories: Path, wish: Parameters, tier: Tier
) -> None:
    checkpoint = small_model(repositories).checkpoint
    resident = drawn(Sdxl.open(checkpoint, FLOAT32_CPU), wish)
    ours = Sdxl.open(checkpoint, replace(FLOAT32_CPU, tier=tier))
    assert str(ours.tuning.tier) == str(tier)
    assert np.array_equal(drawn(ours, wish), resident)


def test_tiles_change_a_large_picture_little(mini: Sdxl, parameters: Parameters) -> None:
    large = parameters.model_copy(update={"width": 1024, "height": 1024})
    whole = drawn(mini, large)
    low = Sdxl.open(MINI.checkpoint, replace(FLOAT32_CPU, tier=Tier.STREAMED))
    difference = np.abs(np.asarray(drawn(low, large), dtype=int) - whole)
    assert difference.max() > 0
    assert difference.mean() < 2


def test_a_model_that_rested_draws_the_same_picture(mini: Sdxl, parameters: Parameters) -> None:
    before = drawn(mini, parameters)
    mini.held.rest()
    mini.held.rest()
    assert np.array_equal(drawn(mini, parameters), before)


def test_weights_that_left_the_device_come_back_as_they_were() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    residence = Residence(network, torch.device("cpu"))
    for keep_host in (True, False, True):
        residence.leave()
        residence.bring(keep_host=keep_host)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, before[name])


def test_the_stock_vae_never_runs_in_float16() -> None:
    half = Tuning(torch.device("cpu"), torch.float16, torch.channels_last)
    assert half.vae_dtype(stays_in_float16=False) is torch.float32
    assert half.vae_dtype(stays_in_float16=True) is torch.float16
    assert FLOAT32_CPU.vae_dtype(stays_in_float16=False) is torch.float32


def test_an_all_black_picture_fails_the_run_and_is_not_kept(
    mini: Sdxl, parameters: Parameters
) -> None:
    sample = mini.prepare("a", parameters)
    black = torch.full_like(sample.latents, 0.0)
    decoder = mini.held.networks.vae.decoder
    kept = decoder.conv_out.bias.data.clone(), decoder.conv_out.weight.data.clone()
    try:
        decoder.conv_out.bias.data.fill_(-5.0)
        decoder.conv_out.weight.data.zero_()
        sample.latents = black
        with pytest.raises(RunFailedError, match="all black"):
            mini.decode(sample)
    finally:
        decoder.conv_out.bias.data, decoder.conv_out.weight.data = kept


def test_a_run_is_announced_with_the_time_that_it_will_take(
    mini: Sdxl, parameters: Parameters
) -> None:
    engine = Engine(mini, estimator=Estimator(mini))
    engine.submit("a", parameters)
    first = next(engine.turn())
    assert isinstance(first, Admitted)
    assert 0 < (first.expected or 0) < PATIENCE


def test_the_expected_time_grows_with_the_work(mini: Sdxl, parameters: Parameters) -> None:
    estimator = Estimator(mini)
    once = estimator.seconds(parameters)
    assert once > 0
    assert estimator.seconds(parameters.model_copy(update={"steps": 8})) > once
    assert estimator.seconds(parameters.model_copy(update={"guidance": 3.0})) > once
    assert estimator.seconds(parameters.model_copy(update={"width": 1024})) > 1.5 * once


STARVED = """
import resource, sys
from pathlib import Path
from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.engine import Engine
from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.request import Parameters

engine = Engine(Sdxl.open(MINI.checkpoint, FLOAT32_CPU))
small = Parameters(model="mini", checkpoint=MINI.checkpoint.name, prompt="a city",
                   negative_prompt="", seed=1, width=256, height=256, guidance=0.0, steps=1)

def play(run_id, parameters):
    engine.submit(run_id, parameters)
    while not engine.idle:
        for event in engine.turn():
            name = type(event).__name__
            if name == "Finished":
                print(run_id, name, event.image.notes)
            elif name == "Failed":
                print(run_id, name, event.error)

play("before", small)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(float(sys.argv[1]) * 2**20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
play("large", small.model_copy(update={"width": 2048, "height": 2048}))
play("after", small)
"""


def starved(megabytes: int) -> list[str]:
    """An engine whose process gets that much memory more, and then a large picture to draw."""
    ended = subprocess.run(
        [sys.executable, "-c", STARVED, str(megabytes)],
        capture_output=True,
        text=True,
        # What an allocator and threads set aside for themselves would blur the limit.
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_out_of_memory_is_tried_once_more_with_less_and_the_server_lives_on() -> None:
    before, large, after = starved(780)
    assert before == "before Finished ()"
    assert large.startswith("large Finished")
    assert "out of memory; the picture was begun anew with less on it" in large
    assert after == "after Finished ()"


def test_out_of_memory_also_with_less_fails_the_run_with_the_cure() -> None:
    before, large, after = starved(100)
    assert "memory does not suffice for this picture. Try a smaller size" in large
    assert (before, after) == ("before Finished ()", "after Finished ()")


def test_what_ran_out_of_memory_is_let_go_before_less_is_held(
    mini: Sdxl, parameters: Parameters
) -> None:
    held: list[weakref.ref[torch.nn.Module]] = []

    class Starved(Sdxl):
        """A model on a device that has room for one step only, once."""

        def denoise(self, samples: list[Sample]) -> None:
            unet = self.held.networks.unet
            if not held:
                held.append(weakref.ref(unet))
                raise torch.OutOfMemoryError(f"out of memory in {type(unet).__name__}")
            super().denoise(samples)

    class Watched(Holding):
        """What is held, and whether it is gone when it should be."""

        def step_down(self) -> bool:
            stepped.append(self.tuning.tier)
            done = super().step_down()
            assert held[0]() is None
            return done

    stepped: list[Tier] = []
    holding = Watched.open(MINI.checkpoint, FLOAT32_CPU)
    engine = Engine(Starved(holding, [MINI.checkpoint]))
    for name in "abc":
        engine.submit(name, parameters.model_copy(update={"width": 256, "height": 256}))
    events = []
    while not engine.idle:
        events += engine.turn()
    assert stepped == [Tier.RESIDENT]
    finished = [event for event in events if isinstance(event, Finished)]
    assert [event.run_id for event in finished] == ["a", "b", "c"]
    assert [len(event.image.notes) for event in finished] == [1, 0, 0]
    assert "begun anew" in finished[0].image.notes[0]
    assert sum(isinstance(event, Admitted) for event in events) == 3


def test_where_memory_is_short_for_several_at_once_fewer_share_a_call(
    mini: Sdxl, parameters: Parameters
) -> None:
    together: list[int] = []

    class Narrow(Sdxl):
        """A model on a device that has room for one at a time."""

        def denoise(self, samples: list[Sample]) -> None:
            if len(samples) > 1:
                raise torch.OutOfMemoryError("out of memory")
            together.append(len(samples))
            super().denoise(samples)

    engine = Engine(Narrow(mini.held, [MINI.checkpoint]), max_batch=4)
    for name in "ab":
        engine.submit(name, parameters.model_copy(update={"width": 256, "height": 256}))
    events = []
    while not engine.idle:
        events += engine.turn()
    finished = [event for event in events if isinstance(event, Finished)]
    assert [event.run_id for event in finished] == ["a", "b"]
    assert [event.image.notes for event in finished] == [(), ()]
    assert together == [1] * 8


def test_an_engine_survives_a_run_that_names_no_checkpoint_it_has(
    mini: Sdxl, parameters: Parameters
) -> None:
    engine = Engine(mini)
    engine.submit("a", parameters.model_copy(update={"checkpoint": "another"}))
    engine.submit("b", parameters.model_copy(update={"steps": 1}))
    events = []
    while not engine.idle:
        events += engine.turn()
    assert [type(e) for e in events if isinstance(e, Failed | Finished)] == [Failed, Finished]
