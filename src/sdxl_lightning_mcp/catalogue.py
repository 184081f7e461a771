"""The models that can be run, as data: adding one is adding an entry."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdxl_lightning_mcp.errors import UnknownModelError

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included, in multiples of `multiple_of` if given."""

    low: float
    high: float
    multiple_of: int | None = None

    def __contains__(self, value: float) -> bool:
        on_grid = self.multiple_of is None or value % self.multiple_of == 0
        return self.low <= value <= self.high and on_grid

    def __str__(self) -> str:
        span = f"{self.low:.10g} to {self.high:.10g}"
        return span if self.multiple_of is None else f"multiples of {self.multiple_of}, {span}"

    def nearest(self, value: float) -> tuple[float, ...]:
        """The closest number below and above `value` that are allowed (one where they agree)."""
        step = self.multiple_of or 1
        below = value // step * step
        around = (below, below + step) if self.multiple_of else (value,)
        return tuple(dict.fromkeys(min(max(number, self.low), self.high) for number in around))


SEED = Range(0, 2**32 - 1)
SIDE = Range(256, 2048, multiple_of=8)


@dataclass(frozen=True)
class WeightFile:
    """One file of a checkpoint: its path below the checkpoint's folder, and how to know it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and the facts of sampling that belong to them.

    `folder` has diffusers' layout (unet/, vae/, text_encoder/, ...). `steps` and `guidance` are
    what the weights were made for. `prediction_type` is diffusers' word for what the UNet predicts.
    """

    name: str
    folder: Path
    files: tuple[WeightFile, ...]
    steps: int
    guidance: float
    prediction_type: Literal["epsilon", "sample", "v_prediction"]
    license: str


@dataclass(frozen=True)
class Model:
    """What a caller can ask for by name, with the limits that this model sets."""

    slug: str
    title: str
    summary: str
    native_size: int
    sizes: tuple[tuple[int, int], ...]
    side: Range
    max_pixels: int
    steps: Range
    default_steps: int
    guidance: Range
    default_guidance: float
    checkpoint: Checkpoint


MINI = Model(
    slug="mini",
    title="mini",
    summary=(
        "A very small model of SDXL's architecture that runs on any machine. It draws cities, "
        "cyberpunk streets, seas, deserts, mountains, forests, fields and villages by day, at "
        "sunset or at night, and single plain objects on plain backgrounds; other words it does "
        "not know."
    ),
    native_size=1024,
    sizes=((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (768, 768)),
    side=SIDE,
    max_pixels=1536 * 1536,
    steps=Range(1, 12),
    default_steps=4,
    guidance=Range(0, 10),
    default_guidance=0.0,
    checkpoint=Checkpoint(
        name="mini-1",
        folder=PACKAGE / "mini",
        steps=4,
        guidance=0.0,
        prediction_type="sample",
        license="Apache-2.0",
        files=(
            WeightFile(
                "text_encoder/model.safetensors",
                288_920,
                "a4cebb8b11a62e5d7bf1bca0fcf836456c7080277713642b119409d5e8174e5c",
            ),
            WeightFile(
                "text_encoder_2/model.safetensors",
                869_672,
                "69990edcc5f1587a1d25f7ca037631024d9db633e12cfb369351a8e5e1c98252",
            ),
            WeightFile(
                "unet/diffusion_pytorch_model.safetensors",
                10_427_304,
                "42ef56112d945bd1fe2b970b6c6e3f3b2c55fb76a054e7f06fb92bfebb7c3fcf",
            ),
            WeightFile(
                "vae/diffusion_pytorch_model.safetensors",
                2_319_422,
                "2ccce0e6f72877da520abb449703336b6b17388cf109f83cc6637fda168740d2",
            ),
        ),
    ),
)

CATALOGUE: dict[str, Model] = {model.slug: model for model in (MINI,)}


def find(name: str) -> Model:
    """Returns the model called `name`.

    Raises:
        UnknownModelError: No model has that name; the text lists those that there are.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        known = ", ".join(CATALOGUE)
        close = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UnknownModelError(f"model: got {name!r}; this version has: {known}.{hint}") from None
