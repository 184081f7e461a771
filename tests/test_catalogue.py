"""The models as data, and the files that the data speaks of."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sdxl_lightning_mcp.catalogue import CATALOGUE, MINI, MINI_FOLDER, find
from sdxl_lightning_mcp.checkpoint import Checkpoint, Model, Range, Repository
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.errors import UnknownModelError, WeightsError
from sdxl_lightning_mcp.faces.discovery import llms_txt, model_spec
from sdxl_lightning_mcp.hub import Transfer, verify
from sdxl_lightning_mcp.request import GenerationRequest, resolve


def copied(folder: Path) -> Checkpoint:
    """Mini's checkpoint from a copy of its folder that may be broken."""
    for path in MINI_FOLDER.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(MINI_FOLDER)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    files = tuple(replace(file, source=folder) for file in MINI.checkpoint.files)
    return replace(MINI.checkpoint, files=files)


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_every_models_defaults_and_best_sizes_are_within_its_own_limits(model) -> None:
    assert model.default_steps in model.steps
    assert model.default_guidance in model.guidance
    for width, height in model.sizes:
        resolve(GenerationRequest(prompt="x", width=width, height=height), model)


def test_minis_weights_are_all_listed_and_fit_into_14_mb() -> None:
    on_disk = {str(path.relative_to(MINI_FOLDER)) for path in MINI_FOLDER.rglob("*.safetensors")}
    assert {file.path for file in MINI.checkpoint.files if file.sha256} == on_disk
    assert sum(file.bytes or 0 for file in MINI.checkpoint.files) <= 14_000_000


def test_minis_files_are_those_of_the_catalogue() -> None:
    told: list[Transfer] = []
    verify(MINI.checkpoint.files, told.append)
    assert [transfer.file for transfer in told] == [*MINI.checkpoint.files]
    assert {transfer.doing for transfer in told} == {"checking"}


def test_mini_says_of_itself_what_the_catalogue_says() -> None:
    folder = MINI_FOLDER
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == MINI.checkpoint.prediction_type
    assert scheduler["timestep_spacing"] == "trailing"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert index["force_zeros_for_empty_prompt"] is True


def test_a_missing_a_short_and_a_changed_file_are_told_apart(tmp_path: Path) -> None:
    checkpoint = copied(tmp_path)
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(WeightsError, match="has other contents"):
        verify(checkpoint.files, print)
    path.write_bytes(good[:-1])
    with pytest.raises(WeightsError, match=r"has [\d,]+ bytes, expected"):
        verify(checkpoint.files, print)
    path.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        verify(checkpoint.files, print)


def test_a_file_that_does_not_fit_its_network_is_refused(tmp_path: Path) -> None:
    checkpoint = copied(tmp_path)
    vae = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes((tmp_path / "text_encoder" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"mini-1: its vae lacks encoder\.\S+ and \d+ more"):
        Sdxl.open(checkpoint, FLOAT32_CPU)


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        UnknownModelError,
        match=r"there are: sd-xl-lightning, .*mini\?",
    ):
        find("minni")


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_the_spec_carries_the_licence_with_what_it_forbids(model: Model) -> None:
    license = model_spec(model)["license"]
    assert license["name"] == model.checkpoint.license.name
    assert bool(license["not_allowed"]) == ("RAIL" in license["name"])
    assert llms_txt().count("; not for breaking the law, harming minors") == 2


def test_every_file_from_the_hub_is_pinned_sized_and_hashed() -> None:
    for model in CATALOGUE.values():
        for checkpoint in (*model.checkpoints, *model.variants):
            for file in checkpoint.all_files:
                if isinstance(file.source, Repository):
                    assert re.fullmatch(r"[0-9a-f]{40}", file.source.revision)
                    assert re.fullmatch(r"[0-9a-f]{64}", file.sha256 or "")
                    assert file.bytes


@pytest.mark.parametrize(
    ("allowed", "value", "nearest"),
    [
        (Range(256, 2048, 8), 1001, (1000, 1008)),
        (Range(256, 2048, 8), 3, (256,)),
        (Range(256, 2048, 8), 99999, (2048,)),
        (Range(1, 12), 13, (12,)),
        (Range(0, 10), -0.5, (0,)),
    ],
)
def test_the_nearest_allowed_numbers_are_found(
    allowed: Range, value: float, nearest: tuple[float, ...]
) -> None:
    assert allowed.nearest(value) == nearest
    assert all(number in allowed for number in nearest)
