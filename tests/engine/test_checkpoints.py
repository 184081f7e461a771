"""Every kind of checkpoint gives the picture that its twin gives in diffusers' own pipeline."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from repositories import BASE, LIGHTNING_FILES, TINY, VAE, small_model, tiny_vae
from safetensors.torch import load_file, save_file

from sdxl_lightning_mcp.checkpoint import Checkpoint, Lora, WeightFile
from sdxl_lightning_mcp.engine.sdxl import Sample, Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.engine.weights import Networks, build_networks, fill_networks
from sdxl_lightning_mcp.errors import WeightsError
from sdxl_lightning_mcp.inspection import inspect
from sdxl_lightning_mcp.own import own_file, own_folder
from sdxl_lightning_mcp.request import Parameters

Pipeline = StableDiffusionXLPipeline


@pytest.fixture(scope="module")
def pipeline(repositories: Path) -> Pipeline:
    opened = Pipeline.from_pretrained(
        repositories / BASE,
        vae=AutoencoderKL.from_pretrained(repositories / VAE, low_cpu_mem_usage=False),
        variant="fp16",
        dtype=torch.float32,
        low_cpu_mem_usage=False,
    )
    opened.set_progress_bar_config(disable=True)
    return opened


@pytest.fixture(scope="module")
def base(repositories: Path) -> Sdxl:
    return Sdxl.open(small_model(repositories).variants[0], FLOAT32_CPU)


@pytest.fixture(scope="module")
def trailing(repositories: Path) -> Sdxl:
    base = small_model(repositories).variants[0]
    return Sdxl.open(replace(base, spacing="trailing"), FLOAT32_CPU)


@pytest.fixture
def wish() -> Parameters:
    return Parameters(
        model="small",
        checkpoint="small_base",
        prompt="a house by the sea at night",
        negative_prompt="",
        seed=3,
        width=128,
        height=128,
        guidance=0.0,
        steps=2,
    )


def denoised(sdxl: Sdxl, wish: Parameters) -> Sample:
    """Our loop on the checkpoint that was opened."""
    name = wish.checkpoint if wish.checkpoint in sdxl.checkpoints else next(iter(sdxl.checkpoints))
    sample = sdxl.prepare("a", wish.model_copy(update={"checkpoint": name}))
    while not sample.denoised:
        sdxl.denoise([sample])
    return sample


def expected(pipeline: Pipeline, wish: Parameters, output_type: str = "latent", **config: str):
    """diffusers' pipeline on the same files; `config` as the model card sets the scheduler."""
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, **config)
    return pipeline(
        wish.prompt,
        negative_prompt=wish.negative_prompt or None,
        width=wish.width,
        height=wish.height,
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance,
        generator=torch.Generator("cpu").manual_seed(wish.seed),
        output_type=output_type,
    ).images


TRAILING = {"timestep_spacing": "trailing", "prediction_type": "epsilon"}
LEADING = {"timestep_spacing": "leading", "prediction_type": "epsilon"}


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 12])
def test_latents_of_sdxl_equal_the_pipelines_bit_for_bit(
    trailing: Sdxl, pipeline: Pipeline, wish: Parameters, steps: int, guidance: float
) -> None:
    asked = wish.model_copy(update={"steps": steps, "guidance": guidance})
    ours = denoised(trailing, asked).latents
    assert torch.equal(ours, expected(pipeline, asked, **TRAILING))


def test_sdxl_base_starts_from_its_own_leading_timesteps(
    base: Sdxl, pipeline: Pipeline, wish: Parameters
) -> None:
    asked = wish.model_copy(update={"steps": 7, "guidance": 5.0, "negative_prompt": "a boat"})
    assert torch.equal(denoised(base, asked).latents, expected(pipeline, asked, **LEADING))


def test_a_unet_file_draws_what_the_model_cards_recipe_draws(
    repositories: Path, pipeline: Pipeline, wish: Parameters
) -> None:
    file = repositories / LIGHTNING_FILES / "small_4step_unet.safetensors"
    unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    unet.load_state_dict(load_file(file))
    recipe = Pipeline(**{**pipeline.components, "unet": unet.eval()})
    recipe.set_progress_bar_config(disable=True)
    ours = Sdxl.open(small_model(repositories).checkpoint, FLOAT32_CPU)
    picture = expected(recipe, wish, "pil", **TRAILING)[0]
    assert np.array_equal(np.asarray(ours.decode(denoised(ours, wish))), np.asarray(picture))


def test_a_one_step_file_predicts_the_clean_sample(
    repositories: Path, pipeline: Pipeline, wish: Parameters
) -> None:
    file = repositories / LIGHTNING_FILES / "small_1step_unet.safetensors"
    unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    unet.load_state_dict(load_file(file))
    recipe = Pipeline(**{**pipeline.components, "unet": unet.eval()})
    recipe.set_progress_bar_config(disable=True)
    asked = wish.model_copy(update={"steps": 1})
    ours = Sdxl.open(small_model(repositories).checkpoints[2], FLOAT32_CPU)
    sample = {"timestep_spacing": "trailing", "prediction_type": "sample"}
    assert torch.equal(denoised(ours, asked).latents, expected(recipe, asked, **sample))


def test_an_all_in_one_file_draws_what_its_parts_draw(repositories: Path, wish: Parameters) -> None:
    model = small_model(repositories)
    apart = Sdxl.open(model.checkpoint, FLOAT32_CPU)
    together = Sdxl.open(model.variants[2], FLOAT32_CPU)
    assert torch.equal(denoised(together, wish).latents, denoised(apart, wish).latents)


def test_an_all_in_one_files_own_vae_is_used_where_no_other_is_given(
    repositories: Path, base: Sdxl, wish: Parameters
) -> None:
    whole = small_model(repositories).variants[2].with_files(without=("vae-fp16",))
    ours = Sdxl.open(whole, FLOAT32_CPU)
    stored = load_file(repositories / LIGHTNING_FILES / "small_4step.safetensors")
    weight = ours.held.networks.vae.decoder.conv_in.weight
    assert torch.equal(weight, stored["first_stage_model.decoder.conv_in.weight"].float())


@pytest.mark.parametrize("naming", ["diffusers", "sgm", "peft"])
def test_a_lora_is_added_exactly_however_its_modules_are_named(
    tmp_path: Path, repositories: Path, naming: str
) -> None:
    file = tmp_path / "lora.safetensors"
    synthetic.write_lora(file, seed=2, alpha=32.0, rank=4, naming=naming, text_encoders=True)
    lora = Lora(WeightFile("lora", file.name, tmp_path), scale=0.5)
    plain = small_model(repositories).variants[0]
    base, changed = filled(plain), filled(plain.with_loras([lora]))
    deltas = synthetic.lora_deltas(seed=2, alpha=32.0, rank=4, text_encoders=True)
    assert len(deltas) == 1052
    for name, delta in deltas.items():
        after, before = weight(changed, name), weight(base, name)
        assert torch.allclose(after, before + 0.5 * delta, rtol=0, atol=1e-6), name


def filled(checkpoint: Checkpoint) -> Networks:
    """Networks with their weights, before layers are joined."""
    networks = build_networks(checkpoint)
    fill_networks(networks, checkpoint, FLOAT32_CPU)
    return networks


def weight(networks: Networks, name: str) -> torch.Tensor:
    part, _, module = name.partition(".")
    encoder, encoder_2 = networks.text_encoders
    if part == "text_encoder":
        return encoder.get_submodule(module.removeprefix("text_model.")).weight
    return (networks.unet if part == "unet" else encoder_2).get_submodule(module).weight


def test_two_loras_add_up(tmp_path: Path, repositories: Path) -> None:
    loras = []
    for seed, scale in ((2, 1.0), (3, -0.25)):
        synthetic.write_lora(tmp_path / f"{seed}.safetensors", seed=seed)
        loras.append(Lora(WeightFile("lora", f"{seed}.safetensors", tmp_path), scale))
    checkpoint = small_model(repositories).variants[0].with_loras(loras)
    assert checkpoint.name == "small_base + 2 + 3:-0.25"
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    deltas = [synthetic.lora_deltas(seed=seed)[name] for seed in (2, 3)]
    base = filled(small_model(repositories).variants[0])
    both = weight(base, name) + deltas[0] - 0.25 * deltas[1]
    assert torch.allclose(weight(filled(checkpoint), name), both, atol=1e-6)


def test_a_lora_for_another_architecture_is_refused_with_what_does_not_fit(
    tmp_path: Path, repositories: Path
) -> None:
    synthetic.write_lokr(tmp_path / "lokr.safetensors")
    tensors = {
        "lora_unet_mid_block_attentions_7_proj_in.lora_down.weight": torch.zeros(4, 96),
        "lora_unet_mid_block_attentions_7_proj_in.lora_up.weight": torch.zeros(96, 4),
    }
    save_file(tensors, tmp_path / "other.safetensors")
    half = {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(96, 4)}
    save_file(half, tmp_path / "half.safetensors")
    for name, reason in (
        ("lokr", r"lokr_w1 belongs to no plain LoRA"),
        ("other", r"lora_unet_mid_block_attentions_7_proj_in of 1 do not fit this model"),
        ("half", r"half of lora_unet_mid_block_attentions_0_proj_in is missing"),
    ):
        lora = Lora(WeightFile("lora", f"{name}.safetensors", tmp_path))
        with pytest.raises(WeightsError, match=reason):
            Sdxl.open(small_model(repositories).variants[0].with_loras([lora]), FLOAT32_CPU)


@pytest.mark.parametrize(
    ("decorate", "factor"),
    [
        (lambda name: f"base_model.model.{name.removeprefix('unet.')}", 1.0),
        (lambda name: name.replace(".weight", ".default.weight"), 1.0),
        (lambda name: name, 4.0),
    ],
    ids=["saved by PEFT", "named adapter", "alpha in the header"],
)
def test_the_decorations_of_peft_are_understood(
    tmp_path: Path,
    repositories: Path,
    decorate: Callable[[str], str],
    factor: float,
) -> None:
    path = tmp_path / "lora.safetensors"
    synthetic.write_lora(path, seed=2, alpha=4.0, rank=4, naming="peft")
    metadata = {"unet.r": 4, "unet.lora_alpha": 4 * factor, "unet.alpha_pattern": {}}
    tensors = {decorate(name): tensor for name, tensor in load_file(path).items()}
    tensors["bundle_emb.mine.clip_l"] = torch.zeros(1)
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(metadata)})
    lora = Lora(WeightFile("lora", path.name, tmp_path))
    plain = small_model(repositories).variants[0]
    base, changed = filled(plain), filled(plain.with_loras([lora]))
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    delta = factor * synthetic.lora_deltas(seed=2, alpha=4.0, rank=4)[name]
    assert torch.allclose(weight(changed, name), weight(base, name) + delta, atol=1e-6)


def test_the_tiny_vae_decodes_as_diffusers_does(
    repositories: Path, pipeline: Pipeline, wish: Parameters
) -> None:
    tiny = AutoencoderTiny.from_pretrained(repositories / TINY, low_cpu_mem_usage=False)
    twin = Pipeline(**{**pipeline.components, "vae": tiny})
    twin.set_progress_bar_config(disable=True)
    base = small_model(repositories).variants[0]
    ours = Sdxl.open(base.with_files(tiny_vae(repositories), without=("vae-fp16",)), FLOAT32_CPU)
    picture = expected(twin, wish, "pil", **LEADING)[0]
    assert np.array_equal(np.asarray(ours.decode(denoised(ours, wish))), np.asarray(picture))


def test_a_persons_folder_is_opened_with_its_own_settings(
    repositories: Path, pipeline: Pipeline, wish: Parameters
) -> None:
    model = own_folder(repositories / BASE)
    assert (model.checkpoint.spacing, model.checkpoint.prediction_type) == ("leading", "epsilon")
    ours = Sdxl.open(model.checkpoint, FLOAT32_CPU)
    assert torch.equal(denoised(ours, wish).latents, expected(pipeline, wish, **LEADING))


def test_a_persons_file_says_what_its_unet_predicts(tmp_path: Path, repositories: Path) -> None:
    path = tmp_path / "mine.safetensors"
    synthetic.write_all_in_one(path, repositories / BASE, v_prediction=True)
    assert inspect(path).prediction_type == "v_prediction"
    model = own_file(path)
    assert model.checkpoint.prediction_type == "v_prediction"
    (note,) = model.notes
    assert note == "These weights are made for zero terminal SNR, which is not sampled here."


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("conv_in.bias"), "its unet lacks conv_in.bias;"),
        (
            lambda tensors: tensors.update(strange=torch.zeros(1)),
            "its unet has too much: strange;",
        ),
        (
            lambda tensors: tensors.update({"conv_in.bias": torch.zeros(3)}),
            "its unet has other sizes: conv_in.bias;",
        ),
    ],
)
def test_a_unet_that_does_not_fit_is_refused_by_the_name_of_what_does_not(
    tmp_path: Path, repositories: Path, change: Callable[..., object], reason: str
) -> None:
    path = tmp_path / "small_4step_unet.safetensors"
    path.write_bytes((repositories / LIGHTNING_FILES / path.name).read_bytes())
    changed(path, change)
    checkpoint: Checkpoint = small_model(repositories).checkpoint
    broken = checkpoint.with_files(WeightFile("unet", path.name, tmp_path))
    with pytest.raises(WeightsError, match=reason):
        Sdxl.open(broken, FLOAT32_CPU)


def test_another_steps_file_is_exchanged_and_a_broken_one_leaves_the_old_at_work(
    tmp_path: Path, repositories: Path, wish: Parameters
) -> None:
    model = small_model(repositories)
    four, eight, _ = model.checkpoints
    name = "small_8step_unet.safetensors"
    good = (repositories / LIGHTNING_FILES / name).read_bytes()
    copy = tmp_path / name
    moved = eight.with_files(replace(eight.file("unet"), source=tmp_path))
    ours = Sdxl.open(four, FLOAT32_CPU, [moved])
    before = denoised(ours, wish).latents
    asked = wish.model_copy(update={"checkpoint": moved.name})
    for broken in (b"", good[:-2], good[:-1] + bytes([good[-1] ^ 1])):
        copy.write_bytes(broken)
        with pytest.raises(WeightsError, match=name):
            denoised(ours, asked)
        assert torch.equal(denoised(ours, wish).latents, before)
    copy.write_bytes(good)
    # A LoRA goes along with the exchange, also one that changes text encoders.
    synthetic.write_lora(tmp_path / "lora.safetensors", seed=2, text_encoders=True)
    lora = [Lora(WeightFile("lora", "lora.safetensors", tmp_path))]
    both = Sdxl.open(four.with_loras(lora), FLOAT32_CPU, [eight.with_loras(lora)])
    name = eight.with_loras(lora).name
    swapped = denoised(both, wish.model_copy(update={"checkpoint": name})).latents
    whole = Sdxl.open(eight.with_loras(lora), FLOAT32_CPU)
    assert torch.equal(swapped, denoised(whole, wish).latents)
    alone = denoised(Sdxl.open(eight, FLOAT32_CPU), asked)
    assert torch.equal(denoised(ours, asked).latents, alone.latents)
    assert torch.equal(denoised(ours, wish).latents, before)
