"""The library in three lines."""

import signal
from pathlib import Path

import pytest

import sdxl_lightning_mcp as sdxl
from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.engine import Engine
from sdxl_lightning_mcp.engine.sdxl import Sdxl


def test_load_call_and_save(tmp_path: Path) -> None:
    mini = sdxl.load("mini", device="cpu")
    image = mini("a lighthouse in a storm", seed=7, width=512, height=512)
    path = image.save(tmp_path / "lighthouse.jpg")
    assert sdxl.read_parameters(path) == image.parameters
    assert image.parameters.seed == 7


def test_a_wrong_field_is_refused_before_the_device_is_asked(mini: Sdxl) -> None:
    with pytest.raises(sdxl.InvalidRequestError, match="width: got 1001"):
        sdxl.LoadedModel(MINI, Engine(mini))("x", width=1001)


def test_a_call_that_was_interrupted_is_not_in_the_way_of_the_next(mini: Sdxl) -> None:
    model = sdxl.LoadedModel(MINI, Engine(mini))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            model("the first", steps=12, width=1536, height=1536)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert model("the second", width=256, height=256).parameters.prompt == "the second"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu,cpu"])
def test_a_device_that_torch_does_not_see_is_refused_with_those_that_it_does(device: str) -> None:
    with pytest.raises(sdxl.SettingsError, match=f"'{device}' is not seen by torch; here is: "):
        sdxl.load("mini", device=device)


def test_notes_come_with_the_picture(mini: Sdxl) -> None:
    image = sdxl.LoadedModel(MINI, Engine(mini))("a city " * 99, width=264, height=256, steps=1)
    assert [note.split()[0] for note in image.notes] == ["mini-1", "The", "Drawn"]


def test_an_unknown_model_is_refused_before_torch_is_loaded() -> None:
    with pytest.raises(sdxl.UnknownModelError, match="there are: sd-xl-lightning, sdxl-base, mini"):
        sdxl.load("midi")


def test_a_picture_can_be_made_again_from_its_file(mini: Sdxl, tmp_path: Path) -> None:
    model = sdxl.LoadedModel(MINI, Engine(mini))
    first = model("the sea at sunset", width=512, height=512)
    found = sdxl.read_parameters(first.save(tmp_path / "a.jpg"))
    wish = found.model_dump(exclude={"model", "checkpoint"})
    again = model(**wish)
    assert again.parameters == first.parameters
    assert again.jpeg[-10_000:] == first.jpeg[-10_000:]


def test_a_name_that_is_not_that_of_a_jpeg_is_refused(mini: Sdxl, tmp_path: Path) -> None:
    image = sdxl.LoadedModel(MINI, Engine(mini))("the sea", width=256, height=256, steps=1)
    for name in ("a.png", "a"):
        with pytest.raises(sdxl.StorageError, match=r"is a JPEG: name it .*a\.jpg"):
            image.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_leaves_nothing(mini: Sdxl, tmp_path: Path) -> None:
    image = sdxl.LoadedModel(MINI, Engine(mini))("the sea", width=256, height=256, steps=1)
    with pytest.raises(sdxl.StorageError, match="No such file or directory"):
        image.save(tmp_path / "nowhere" / "a.jpg")
    assert list(tmp_path.iterdir()) == []
