"""What a model is made of: `Model`, `Checkpoint`, `WeightFile`, and the limits they set."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

PredictionType = Literal["epsilon", "sample", "v_prediction"]
Spacing = Literal["trailing", "leading"]


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
class License:
    """Under what weights may be used: its name, where its text is, and what it forbids."""

    name: str
    url: str | None = None
    restrictions: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" ({self.url})" if self.url else ""
        forbidden = f"; not for {', '.join(self.restrictions)}" if self.restrictions else ""
        return f"{self.name}{where}{forbidden}"


@dataclass(frozen=True)
class Repository:
    """A model repository on the hub, pinned to one revision."""

    id: str
    revision: str
    license: License


@dataclass(frozen=True)
class WeightFile:
    """One file of a checkpoint, and how to know it.

    `role` is the part it plays: unet, all-in-one (UNet, text encoders and VAE in one file), lora,
    vae, vae-fp16 (one whose activations stay within float16), vae-tiny, text_encoder,
    text_encoder_2; a small file's role is its path in diffusers' layout, as unet/config.json.
    `path` is below its `source`, a repository or a folder of this machine. A person's own file
    has neither size nor hash: it is taken as it is.
    """

    role: str
    path: str
    source: Repository | Path
    bytes: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What people call the file: its own name, or its path where that alone says nothing."""
        return self.path if "/" in self.path else self.path.removesuffix(".safetensors")

    def __str__(self) -> str:
        source = self.source.id if isinstance(self.source, Repository) else self.source
        return f"{source}/{self.path}"


def license_of(file: WeightFile) -> License | None:
    """Under what a file from the hub may be used."""
    return file.source.license if isinstance(file.source, Repository) else None


def license_notice(files: Iterable[WeightFile]) -> list[str]:
    """What is to be said when these files are fetched: their licences, and what those forbid."""
    names: dict[License, dict[str, None]] = {}
    for file in files:
        if isinstance(file.source, Repository):
            names.setdefault(file.source.license, {})[file.source.id] = None
    return [f"Licence of {', '.join(of_it)}: {license}." for license, of_it in names.items()]


@dataclass(frozen=True)
class Lora:
    """Low-rank changes that are added to the weights: `scale` times what the file says."""

    file: WeightFile
    scale: float = 1.0

    def __str__(self) -> str:
        return self.file.name if self.scale == 1 else f"{self.file.name}:{self.scale:g}"


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and the facts of sampling that belong to them.

    `steps` and `guidance` are what the weights were made for; what is made without guidance bears
    it up to `bears_guidance`. `prediction_type` is diffusers' word for what the UNet predicts,
    `spacing` that for how the timesteps are laid out.
    `prompt_chunks` times 75 tokens of a prompt are read.
    """

    name: str
    files: tuple[WeightFile, ...]
    steps: int
    guidance: float
    prediction_type: PredictionType
    license: License
    spacing: Spacing = "trailing"
    bears_guidance: float = 1.0
    loras: tuple[Lora, ...] = ()
    prompt_chunks: int = 3

    @property
    def all_files(self) -> tuple[WeightFile, ...]:
        """Every file that is opened, LoRAs among them."""
        return (*self.files, *(lora.file for lora in self.loras))

    @property
    def own_file(self) -> WeightFile | None:
        """The one file that makes it what it is: its LoRA, its UNet, or the file with all parts."""
        if self.loras:
            return self.loras[0].file
        return self.file("unet", "all-in-one")

    def file(self, *roles: str) -> WeightFile | None:
        """The file that plays one of these roles, the first of them that is there."""
        found = {file.role: file for file in self.files}
        return next((found[role] for role in roles if role in found), None)

    def with_loras(self, loras: Iterable[Lora]) -> "Checkpoint":
        """The same weights with these changes added; the name says so."""
        loras = tuple(loras)
        name = " + ".join([self.name, *map(str, loras)])
        return replace(self, name=name, loras=(*self.loras, *loras))

    def with_files(self, *files: WeightFile, without: tuple[str, ...] = ()) -> "Checkpoint":
        """The same with these files in the place of those that play their roles."""
        gone = {*without, *(file.role for file in files)}
        return replace(self, files=(*(f for f in self.files if f.role not in gone), *files))


@dataclass(frozen=True)
class Model:
    """What a caller can ask for by name, with the limits that this model sets.

    `checkpoints`: the first is the default; the others stand in for it where a request's steps
    are theirs; they differ in their UNet alone. `variants` are further ones, used where they are
    chosen by name. `notes` are said with every picture. `selector` is what `--model` and `pull`
    are given to get this one, where that is not the slug.
    """

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
    checkpoints: tuple[Checkpoint, ...]
    variants: tuple[Checkpoint, ...] = ()
    notes: tuple[str, ...] = ()
    selector: str = ""

    @property
    def checkpoint(self) -> Checkpoint:
        """The default checkpoint."""
        return self.checkpoints[0]

    def checkpoint_for(self, steps: int) -> Checkpoint:
        """The checkpoint that is made for that many steps, else the default."""
        return next((one for one in self.checkpoints if one.steps == steps), self.checkpoint)

    @property
    def described(self) -> "Model":
        """The same without its files: what another machine needs to know to ask for it."""

        def bare(checkpoint: Checkpoint) -> Checkpoint:
            return replace(checkpoint, files=(), loras=())

        return replace(self, checkpoints=tuple(map(bare, self.checkpoints)), variants=())

    def narrowed(self, checkpoint: Checkpoint) -> "Model":
        """The model with that checkpoint alone, and its steps and guidance as defaults."""
        return replace(
            self,
            checkpoints=(checkpoint,),
            variants=(),
            default_steps=checkpoint.steps,
            default_guidance=checkpoint.guidance,
        )
