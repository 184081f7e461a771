"""Which model is served: names, a person's own files, LoRAs on top, auto."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import synthetic
from repositories import BASE, LIGHTNING_FILES, small_model

from sdxl_lightning_mcp.catalogue import (
    CATALOGUE,
    LIGHTNING,
    MINI,
    SDXL_TEXT_ENCODERS,
    TAESDXL,
    VAE_FIX,
    names,
)
from sdxl_lightning_mcp.errors import SettingsError, UnknownModelError, WeightsError
from sdxl_lightning_mcp.hardware import Accelerator
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.selection import automatic, select


@pytest.mark.parametrize("name", names())
def test_every_name_of_the_catalogue_chooses_a_model_with_all_its_parts(name: str) -> None:
    model = select(name)
    checkpoint = model.checkpoint
    assert checkpoint.name == name or name in CATALOGUE
    assert checkpoint.file("unet", "all-in-one")
    assert checkpoint.file("vae", "vae-fp16")
    assert checkpoint.file("text_encoder_2", "all-in-one")
    assert checkpoint.file("tokenizer/tokenizer.json", "tokenizer/vocab.json")


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lightning_files_carry_the_settings_of_their_model_card(steps: int) -> None:
    (checkpoint,) = (one for one in LIGHTNING.checkpoints if one.steps == steps)
    assert (checkpoint.guidance, checkpoint.spacing) == (0.0, "trailing")
    assert checkpoint.prediction_type == ("sample" if steps == 1 else "epsilon")
    # The text encoders and the VAE come from elsewhere; SDXL base's own UNet is not fetched.
    assert sum(file.role == "unet" for file in checkpoint.files) == 1
    assert checkpoint.file("vae-fp16") == VAE_FIX[0]


def test_auto_is_lightning_on_a_gpu_that_holds_it_and_else_mini_that_says_why() -> None:
    assert automatic(Accelerator("cuda", "NVIDIA H200", 150_000_000_000)) is LIGHTNING
    assert automatic(Accelerator("cuda", "NVIDIA RTX 3050", 6_000_000_000)) is LIGHTNING
    assert automatic(Accelerator("mps", "Apple GPU", 16 * 2**30)) is LIGHTNING
    for found, reason in (
        (None, "no GPU that torch can use was found"),
        (Accelerator("cuda", "NVIDIA GTX 1050", 4_000_000_000), "GTX 1050 has 4 GB"),
        (Accelerator("mps", "Apple GPU", 8 * 2**30), "Apple GPU has 9 GB"),
    ):
        model = automatic(found)
        _, notes = resolve(read_request({"prompt": "x"}, model), model)
        assert model.slug == "mini"
        (note,) = notes
        assert reason in note
        assert "--model sd-xl-lightning" in note


def test_auto_does_not_look_for_a_gpu_where_the_processor_was_asked_for() -> None:
    assert select("auto", device="cpu").slug == "mini"


def test_an_explicit_mini_says_nothing_of_other_models() -> None:
    assert select("mini").notes == ()


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        ("write_sd15", "is a Stable Diffusion 1 checkpoint; SDXL checkpoints can be run"),
        ("write_sd2", "is a Stable Diffusion 2 checkpoint"),
        ("write_refiner", "is an SDXL refiner"),
        ("write_flux", "is a FLUX checkpoint"),
        ("write_lokr", "is a LoRA: give it as --lora"),
    ],
)
def test_a_file_that_is_something_else_is_told_what_it_is(
    tmp_path: Path, write: str, reason: str
) -> None:
    path = tmp_path / "file.safetensors"
    getattr(synthetic, write)(path)
    with pytest.raises(WeightsError, match=reason):
        select(str(path))


def test_a_cut_a_broken_and_a_pickled_file_are_refused(tmp_path: Path, repositories: Path) -> None:
    whole = (repositories / LIGHTNING_FILES / "small_4step_unet.safetensors").read_bytes()
    path = tmp_path / "file.safetensors"
    path.write_bytes(whole[:-1000])
    with pytest.raises(WeightsError, match=r"has [\d,]+ bytes, but its header speaks of [\d,]+"):
        select(str(path))
    for broken in (b"", b"abc", b"\xff" * 100, whole[:1000], b"\x02\0\0\0\0\0\0\0[]"):
        path.write_bytes(broken)
        with pytest.raises(WeightsError, match=r"no whole \.safetensors file"):
            select(str(path))
    for suffix in (".ckpt", ".bin", ".pt", ".pth"):
        pickled = tmp_path / f"file{suffix}"
        pickled.write_bytes(pickle.dumps({"a": 1}))
        with pytest.raises(WeightsError, match="is a pickle"):
            select(str(pickled))
    for name in ("nowhere", "nowhere.safetensors"):
        with pytest.raises(UnknownModelError, match="there is no file or folder"):
            select(str(tmp_path / name))


def test_a_file_brings_what_it_lacks_from_sdxl_base(tmp_path: Path, repositories: Path) -> None:
    unet = tmp_path / "mine.safetensors"
    shutil.copy(repositories / LIGHTNING_FILES / "small_4step_unet.safetensors", unet)
    assert {*SDXL_TEXT_ENCODERS, *VAE_FIX} < {*select(str(unet)).checkpoint.files}
    whole = tmp_path / "whole.safetensors"
    shutil.copy(repositories / LIGHTNING_FILES / "small_4step.safetensors", whole)
    files = select(str(whole)).checkpoint.files
    assert not {*SDXL_TEXT_ENCODERS, *VAE_FIX} & {*files}
    assert select(str(whole)).checkpoint.file("all-in-one").path == "whole.safetensors"


@pytest.mark.parametrize(
    ("name", "steps", "guidance"),
    [
        ("dreamy", 25, 5.0),
        ("dreamyLightning", 4, 0.0),
        ("dreamy-hyper-8step", 8, 0.0),
        ("Turbo_dreamy_6Steps", 6, 0.0),
        ("dreamy_hyper-sdxl", 4, 0.0),
        ("dreamy_lcm", 4, 0.0),
        ("footsteps", 25, 5.0),
        ("hyperRealisticXL_v10", 25, 5.0),
        ("hyperionXL", 25, 5.0),
        ("myfinetune_10000_steps", 25, 5.0),
        ("epoch5_2000steps", 25, 5.0),
        ("dog-30steps", 25, 5.0),
        ("dog_0steps", 25, 5.0),
    ],
)
def test_a_files_name_says_whether_few_steps_are_enough(
    tmp_path: Path, repositories: Path, name: str, steps: int, guidance: float
) -> None:
    path = tmp_path / f"{name}.safetensors"
    shutil.copy(repositories / LIGHTNING_FILES / "small_4step.safetensors", path)
    model = select(str(path))
    assert (model.default_steps, model.default_guidance) == (steps, guidance)
    assert model.slug == name
    # What was only read off a name is said with every picture.
    guessed = [f"{name} is taken to be made for {steps} steps" in note for note in model.notes]
    assert guessed == [True] * (steps != 25)


def test_a_file_of_the_catalogue_is_recognised_whatever_its_name(
    tmp_path: Path, repositories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_model(repositories, on_hub=True)
    monkeypatch.setitem(CATALOGUE, "small", small)
    path = tmp_path / "downloaded (1).safetensors"
    shutil.copy(repositories / LIGHTNING_FILES / "small_1step_unet.safetensors", path)
    model = select(str(path))
    assert model.checkpoint.name == "small_1step_unet"
    assert (model.checkpoint.prediction_type, model.default_steps) == ("sample", 1)
    assert model.checkpoint.file("unet").source == tmp_path
    base = tmp_path / "base.safetensors"
    shutil.copy(repositories / BASE / "unet/diffusion_pytorch_model.fp16.safetensors", base)
    assert select(str(base)).checkpoint.name == "small_base"
    _, notes = resolve(read_request({"prompt": "x", "steps": 8}, model), model)
    assert "pull" not in notes[0]


def test_loras_are_files_or_names_with_a_scale_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "pixel:art.safetensors"
    synthetic.write_lora(path, seed=1)
    for wanted, scale in ((str(path), 1.0), (f"{path}:0.8", 0.8), (f"{path}:-1", -1.0)):
        model = select("sdxl-base", [wanted])
        (lora,) = model.checkpoint.loras
        assert (lora.file.path, lora.scale) == (path.name, scale)
        assert model.default_steps == 25
    both = select("sd-xl-lightning", [f"{path}:0.5", f"{path}:0.25"])
    name = "sdxl_lightning_8step_unet + pixel:art:0.5 + pixel:art:0.25"
    assert both.checkpoint_for(8).name == name


def test_a_few_step_lora_brings_its_steps_to_a_model_that_needs_many(tmp_path: Path) -> None:
    model = select("sdxl-base", ["sdxl_lightning_8step_lora:0.9"])
    assert (model.default_steps, model.default_guidance) == (8, 0.0)
    assert model.checkpoint.spacing == "trailing"
    path = tmp_path / "Hyper-SDXL-8steps-lora.safetensors"
    synthetic.write_lora(path, seed=1)
    guessed = select("sdxl-base", [str(path)])
    assert (guessed.default_steps, guessed.default_guidance) == (8, 0.0)
    assert "Hyper-SDXL-8steps-lora is taken to be made for 8 steps" in guessed.notes[0]
    for scale in ("nan", "inf"):
        with pytest.raises(SettingsError, match="its scale must be a finite number"):
            select("sdxl-base", [f"{path}:{scale}"])
    with pytest.raises(SettingsError, match=r"needs few already.*--model sdxl-base"):
        select("sd-xl-lightning", ["sdxl_lightning_4step_lora"])


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ("nothing", "there is no file nothing, and no LoRA has that name"),
        ("nowhere.safetensors:0.5", "there is no file nowhere.safetensors,"),
        ("{pickled}", "is a pickle"),
        ("{unet}", "is a whole checkpoint, not a LoRA: give it as --model"),
        ("{sd15}:0.5", "is a LoRA for Stable Diffusion 1 or 2, not for SDXL: lora_"),
    ],
)
def test_what_is_no_lora_for_sdxl_is_refused(
    tmp_path: Path, repositories: Path, lora: str, reason: str
) -> None:
    synthetic.write_sd15_lora(tmp_path / "sd15.safetensors")
    files = {
        "sd15": tmp_path / "sd15.safetensors",
        "pickled": tmp_path / "lora.ckpt",
        "unet": repositories / LIGHTNING_FILES / "small_4step_unet.safetensors",
    }
    files["pickled"].write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises((WeightsError, UnknownModelError), match=reason):
        select("sdxl-base", [lora.format(**files)])


def test_the_tiny_vae_stands_in_for_the_other_and_mini_needs_none() -> None:
    model = select("sd-xl-lightning", vae="tiny")
    assert model.selector == "sd-xl-lightning --vae tiny"
    for checkpoint in model.checkpoints:
        assert checkpoint.file("vae-tiny") == TAESDXL[0]
        assert checkpoint.file("vae-fp16") is None
        assert checkpoint.name.endswith(" + taesdxl")
    with pytest.raises(SettingsError, match="instead of --speed draft take --speed fast"):
        select(MINI.slug, vae="tiny")


def test_a_folder_without_what_it_needs_is_refused_by_name(
    tmp_path: Path, repositories: Path
) -> None:
    with pytest.raises(WeightsError, match=r"model_index\.json is missing: a folder needs"):
        select(str(tmp_path))
    folder = tmp_path / "mine"
    shutil.copytree(repositories / BASE, folder)
    assert select(str(folder)).checkpoint.name == "mine"

    index = folder / "model_index.json"
    index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(WeightsError, match="mine is a FluxPipeline; a StableDiffusionXLPipeline"):
        select(str(folder))
    shutil.copy(repositories / BASE / index.name, index)

    index.write_text("[]")
    with pytest.raises(WeightsError, match="it holds no object"):
        select(str(folder))
    shutil.copy(repositories / BASE / index.name, index)

    scheduler = folder / "scheduler" / "scheduler_config.json"
    for config, reason in (
        ({"beta_schedule": "linear"}, "beta_schedule linear; what can be run: scaled_linear"),
        ({"prediction_type": "flow_prediction"}, "prediction_type flow_prediction; what can"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "another kind of noise"),
        ({"_class_name": "EDMEulerScheduler"}, "another kind of noise"),
    ):
        scheduler.write_text(json.dumps(config))
        with pytest.raises(WeightsError, match=reason):
            select(str(folder))
    scheduler.write_text(
        json.dumps({"timestep_spacing": "linspace", "rescale_betas_zero_snr": True})
    )
    assert [note.split()[0] for note in select(str(folder)).notes] == ["These", "Its"]
    shutil.copy(repositories / BASE / "scheduler" / scheduler.name, scheduler)

    weights = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="it was cut short"):
        select(str(folder))
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(WeightsError, match=r"Only diffusion_pytorch_model.bin is there, a pickle"):
        select(str(folder))
