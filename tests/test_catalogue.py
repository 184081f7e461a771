"""The models as data, and the files that the data speaks of."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdxl_lightning_mcp.catalogue import CATALOGUE, MINI, Range, find
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.engine.weights import open_networks, verify
from sdxl_lightning_mcp.errors import UnknownModelError, WeightsError
from sdxl_lightning_mcp.request import GenerationRequest, resolve


def copied(folder: Path) -> Path:
    """A copy of mini's folder that may be broken."""
    for path in MINI.checkpoint.folder.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(MINI.checkpoint.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
def test_every_models_defaults_and_best_sizes_are_within_its_own_limits(model) -> None:
    assert model.default_steps in model.steps
    assert model.default_guidance in model.guidance
    for width, height in model.sizes:
        resolve(GenerationRequest(prompt="x", width=width, height=height), model)


def test_minis_weights_are_all_listed_and_fit_into_14_mb() -> None:
    on_disk = {
        str(path.relative_to(MINI.checkpoint.folder))
        for path in MINI.checkpoint.folder.rglob("*.safetensors")
    }
    assert {file.path for file in MINI.checkpoint.files} == on_disk
    assert sum(file.bytes for file in MINI.checkpoint.files) <= 14_000_000


def test_minis_files_are_those_of_the_catalogue() -> None:
    assert list(verify(MINI.checkpoint)) == [file.path for file in MINI.checkpoint.files]


def test_mini_says_of_itself_what_the_catalogue_says() -> None:
    folder = MINI.checkpoint.folder
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == MINI.checkpoint.prediction_type
    assert scheduler["timestep_spacing"] == "trailing"
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    assert index["force_zeros_for_empty_prompt"] is True


def test_a_missing_a_short_and_a_changed_file_are_told_apart(tmp_path: Path) -> None:
    broken = replace(MINI.checkpoint, folder=copied(tmp_path))
    path = tmp_path / broken.files[0].path
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(WeightsError, match="has other contents"):
        list(verify(broken))
    path.write_bytes(good[:-1])
    with pytest.raises(WeightsError, match=r"has [\d,]+ bytes, expected"):
        list(verify(broken))
    path.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        list(verify(broken))


def test_a_file_that_does_not_fit_its_network_is_refused(tmp_path: Path) -> None:
    broken = replace(MINI.checkpoint, folder=copied(tmp_path))
    vae = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes((tmp_path / "text_encoder" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="cannot be opened"):
        open_networks(broken, FLOAT32_CPU)


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"this version has: mini\. Did you mean mini"):
        find("minni")


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
