"""What the environment and the flags say."""

from pathlib import Path

import pytest

from sdxl_lightning_mcp.catalogue import TAESDXL
from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.server import choose_model
from sdxl_lightning_mcp.settings import Settings, Speed


def test_without_an_environment_every_setting_has_its_default() -> None:
    assert load_settings({"PATH": "/bin"}) == Settings()


def test_each_setting_is_read_from_its_variable() -> None:
    settings = load_settings(
        {
            "SDXL_LIGHTNING_MODEL": "mini",
            "SDXL_LIGHTNING_OUTPUT_DIR": "/pictures",
            "SDXL_LIGHTNING_DEVICE": "cpu",
            "SDXL_LIGHTNING_PREVIEW_BYTES": "50000",
            "SDXL_LIGHTNING_MAX_QUEUE": "3",
            "SDXL_LIGHTNING_MAX_BATCH": "2",
            "SDXL_LIGHTNING_LOG_LEVEL": "debug",
        }
    )
    assert settings == Settings(
        model="mini",
        output_dir=Path("/pictures"),
        device="cpu",
        preview_bytes=50_000,
        max_queue=3,
        max_batch=2,
        log_level="debug",
    )


def test_exact_pictures_are_never_made_together_so_that_asking_for_both_is_refused() -> None:
    assert load_settings({}, speed="Exact", max_batch=1).speed is Speed.EXACT
    with pytest.raises(SettingsError, match=r"^speed: exact computes every picture alone"):
        load_settings({"SDXL_LIGHTNING_MAX_BATCH": "4"}, speed="exact")


def test_a_speed_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(SettingsError, match=r"--speed: got 'turbo'.*'exact', 'normal', 'fast'"):
        load_settings({}, speed="turbo")


def test_draft_brings_the_tiny_vae_where_the_model_can_have_it() -> None:
    model = choose_model(load_settings({}, model="sd-xl-lightning", speed="draft", device="cpu"))
    assert model.checkpoint.file("vae-tiny") == TAESDXL[0]
    with pytest.raises(SettingsError, match="instead of --speed draft take --speed fast"):
        choose_model(load_settings({}, model="mini", speed="draft"))


def test_a_flag_wins_over_the_environment() -> None:
    environment = {"SDXL_LIGHTNING_OUTPUT_DIR": "/a", "SDXL_LIGHTNING_MODEL": "mini"}
    settings = load_settings(environment, output_dir="/b", model=None)
    assert (settings.output_dir, settings.model) == (Path("/b"), "mini")


def test_a_variable_of_ours_that_does_not_exist_is_refused_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(SettingsError, match=r"Did you mean SDXL_LIGHTNING_MODEL\?"):
        load_settings({"SDXL_LIGHTNING_MODLE": "mini"})


def test_an_impossible_value_is_refused_with_its_name() -> None:
    with pytest.raises(SettingsError, match=r"SDXL_LIGHTNING_MAX_QUEUE: got 'many'"):
        load_settings({"SDXL_LIGHTNING_MAX_QUEUE": "many"})


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("CUDA:1", "cuda:1"),
        (" cuda:0, cuda:12 ", "cuda:0,cuda:12"),
        ("cpu,cpu", "cpu,cpu"),
        ("mps", "mps"),
    ],
)
def test_devices_are_named_as_torch_names_them_with_commas_between(said: str, read: str) -> None:
    assert load_settings({"SDXL_LIGHTNING_DEVICE": said}).device == read


@pytest.mark.parametrize(
    "said", ["gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:0,cuda:0", "cuda:0,cpu", "cuda,cuda", ","]
)
def test_what_names_no_device_is_refused_with_what_does(said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({}, device=said)
    assert str(refused.value) == (
        f"--device: got {said!r}; allowed: auto, cuda, mps, cpu; cuda:1 for one GPU, cuda:0,cuda:1 "
        "for these, each once; cpu,cpu for two workers."
    )


@pytest.mark.parametrize("said", ["EU", "eu_1", "-eu", "eu-", "a" * 21, "eu/us", "eu\n"])
def test_a_region_is_a_short_name_that_may_stand_in_addresses(said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({}, region=said)
    assert str(refused.value) == (
        f"--region: got {said!r}; allowed: 1 to 20 small letters, digits and dashes in between, "
        "as eu or us-west-1."
    )
