"""JPEG files that carry their parameters, and previews within a budget."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from sdxl_lightning_mcp.image import encode, preview, read_parameters
from sdxl_lightning_mcp.request import Parameters

NOW = datetime(2026, 11, 23, 5, 12, 44, tzinfo=UTC)
TRAINED = b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def noise(side: int) -> Image.Image:
    return Image.effect_noise((side, side), 90).convert("RGB")


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        'quotes " and <tags> & ampersands',
        "two\nlines\tand a tab",
        "日本の夜景 🌃",
        "'",
        "\x00\ufffe\uffff",
    ],
)
def test_the_parameters_come_back_from_the_file_exactly(
    tmp_path: Path, parameters: Parameters, prompt: str
) -> None:
    wish = parameters.model_copy(update={"prompt": prompt, "negative_prompt": prompt})
    path = encode(noise(64), wish, NOW).save(tmp_path / "a.jpg")
    assert read_parameters(path) == wish


def test_the_file_says_that_a_model_made_it(parameters: Parameters) -> None:
    assert TRAINED in encode(noise(64), parameters, NOW).jpeg


def test_the_comment_has_the_form_that_image_browsers_read(parameters: Parameters) -> None:
    wish = parameters.model_copy(update={"negative_prompt": "snow", "guidance": 2.5})
    with Image.open(io.BytesIO(encode(noise(64), wish, NOW).jpeg)) as opened:
        comment = opened.getexif().get_ifd(IFD.Exif)[Base.UserComment]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == (
        "a city skyline at night\n"
        "Negative prompt: snow\n"
        "Steps: 4, Sampler: Euler, CFG scale: 2.5, Seed: 7, "
        f"Size: 512x512, Model: {wish.checkpoint}, Version: sdxl-lightning-mcp"
    )


def test_a_picture_without_parameters_is_told_apart(tmp_path: Path) -> None:
    noise(64).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="carries no parameters"):
        read_parameters(tmp_path / "a.jpg")


def test_a_preview_that_fits_is_the_file_itself(parameters: Parameters) -> None:
    jpeg = encode(noise(64), parameters, NOW).jpeg
    assert preview(jpeg, len(jpeg)) is jpeg


@pytest.mark.parametrize("budget", [100_000, 30_000, 5_000])
def test_a_preview_keeps_within_its_budget_and_its_shape(
    parameters: Parameters, budget: int
) -> None:
    wide = noise(1024).crop((0, 0, 1024, 512))
    shown = preview(encode(wide, parameters, NOW).jpeg, budget)
    assert len(shown) <= budget
    with Image.open(io.BytesIO(shown)) as opened:
        assert opened.format == "JPEG"
        assert opened.width / opened.height == pytest.approx(2, rel=0.05)


def test_a_picture_is_encoded_with_a_preview_where_one_is_asked_for(
    parameters: Parameters,
) -> None:
    picture = noise(512)
    image = encode(picture, parameters, NOW)
    assert image.shown is None
    small = encode(picture, parameters, NOW, preview_bytes=20_000)
    assert small.shown is not None
    assert len(small.shown) <= 20_000
    assert small.jpeg == image.jpeg
    # A small file is its own preview.
    assert encode(picture, parameters, NOW, preview_bytes=10**6).shown == image.jpeg
