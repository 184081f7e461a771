"""Which model is served: a name of the catalogue, a person's own files, LoRAs on top, or `auto`."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sdxl_lightning_mcp.catalogue import CATALOGUE, LIGHTNING, MINI, TAESDXL, find
from sdxl_lightning_mcp.checkpoint import Checkpoint, Lora, Model, WeightFile
from sdxl_lightning_mcp.devices import LEAST_MEMORY, find_devices
from sdxl_lightning_mcp.errors import SettingsError, UnknownModelError, WeightsError
from sdxl_lightning_mcp.hardware import Accelerator, accelerators
from sdxl_lightning_mcp.hub import gigabytes, missing, size
from sdxl_lightning_mcp.inspection import PICKLES, inspect
from sdxl_lightning_mcp.own import few_steps, guess_note, own_file, own_folder, recognised


def select(
    name: str,
    loras: Sequence[str] = (),
    vae: str = "default",
    device: str = "auto",
    visible_gpus: str | None = None,
) -> Model:
    """The model that is asked for, with everything that can be known before it is opened.

    Args:
        name: auto, a name of the catalogue, a folder in diffusers' layout, a .safetensors file.
        loras: Files, or names of the catalogue's LoRAs, each with `:scale` behind it if not 1.
        vae: default or tiny.
        device: Where it shall run, as --device; auto looks for a GPU only where it may be one.
        visible_gpus: CUDA_VISIBLE_DEVICES, where that is set.

    Raises:
        UnknownModelError: No model has that name, and no file is there.
        WeightsError: The file is not what can be run; says what it is.
        SettingsError: The parts do not go together, or auto is to run on a device that is not here.
    """
    model = automatic(_largest(device, visible_gpus)) if name == "auto" else _named(name)
    flags = [word for lora in loras for word in ("--lora", lora)]
    for lora in loras:
        model = _with_lora(model, lora)
    if vae == "tiny":
        model = _with_tiny_vae(model)
        flags += ["--vae", "tiny"]
    return replace(model, selector=shlex.join([model.slug if name == "auto" else name, *flags]))


def _largest(device: str, visible_gpus: str | None) -> Accelerator | None:
    """The GPU with the most memory among those that are to be used."""
    found = () if device.startswith("cpu") else accelerators(visible_gpus)
    used = (one.accelerator for one in find_devices(device, found) if one.accelerator)
    return max(used, key=lambda one: one.memory, default=None)


def automatic(found: Accelerator | None) -> Model:
    """SDXL-Lightning where a GPU runs it; else mini, which says why with every picture."""
    if found is not None and found.memory >= LEAST_MEMORY[found.kind]:
        return LIGHTNING
    fetched = gigabytes(size(LIGHTNING.checkpoint.all_files))
    reason = (
        "no GPU that torch can use was found, or none is to be used"
        if found is None
        else f"{found.name} has {found.memory / 1e9:.0f} GB of memory, which is too little"
    )
    note = (
        f"Drawn by mini, the small model that runs anywhere, because {reason}. The real "
        f"SDXL-Lightning ({fetched}, and minutes for a picture without a GPU): "
        "--model sd-xl-lightning or SDXL_LIGHTNING_MODEL=sd-xl-lightning."
    )
    return replace(MINI, notes=(note,))


def on_disk(model: Model) -> Model:
    """The model with those of its checkpoints whose files are here; the default one stays."""
    default, *others = model.checkpoints
    here = tuple(one for one in others if not missing(one.all_files))
    return replace(model, checkpoints=(default, *here))


def _named(name: str) -> Model:
    if name in CATALOGUE:
        return CATALOGUE[name]
    path = Path(name).expanduser()
    if path.is_dir():
        return own_folder(path.resolve())
    if path.is_file():
        return own_file(path.resolve())
    if path.name != name or path.suffix.lower() in (".safetensors", *PICKLES):
        raise UnknownModelError(f"model: there is no file or folder {name}.")
    return find(name)


def _with_lora(model: Model, wanted: str) -> Model:
    """The model with one more LoRA; one that makes few steps possible brings its own settings."""
    lora, known = _read_lora(wanted)
    checkpoints = tuple(one.with_loras([lora]) for one in model.checkpoints)
    steps = known.steps if known else few_steps(lora.file.name)
    if steps is None:
        return replace(model, checkpoints=checkpoints, variants=())
    if model.checkpoint.guidance == 0:
        raise SettingsError(
            f"{lora.file.name} makes few steps possible, and {model.checkpoint.name} needs few "
            "already. Put it on sdxl-base or a fine-tune of it: --model sdxl-base."
        )
    fast = replace(checkpoints[0], steps=steps, guidance=0.0, spacing="trailing")
    guessed = () if known else (guess_note(lora.file.name, steps),)
    return replace(model.narrowed(fast), notes=(*model.notes, *guessed))


def _read_lora(wanted: str) -> tuple[Lora, Checkpoint | None]:
    """`PATH[:scale]`; also the catalogue's entry where it is one of its few-step LoRAs."""
    name, scale = wanted, 1.0
    head, colon, tail = wanted.rpartition(":")
    if colon and not Path(wanted).expanduser().exists():
        try:
            name, scale = head, float(tail)
        except ValueError:
            # A drive letter on Windows, say; what is wrong will be said of the whole name.
            name = wanted
    if not math.isfinite(scale):
        raise SettingsError(f"lora: got {wanted!r}; its scale must be a finite number.")
    every = (one for model in CATALOGUE.values() for one in model.variants)
    known = next((one for one in every if one.name == name and one.loras), None)
    if known is not None:
        return replace(known.loras[0], scale=scale), known
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UnknownModelError(f"lora: there is no file {name}, and no LoRA has that name.")
    if inspect(path).kind != "lora":
        raise WeightsError(f"{path} is a whole checkpoint, not a LoRA: give it as --model.")
    file = WeightFile("lora", path.name, path.parent)
    return Lora(file, scale), recognised(path)


def _with_tiny_vae(model: Model) -> Model:
    if model.slug == MINI.slug:
        raise SettingsError(
            "vae: TAESDXL decodes SDXL's latents, and mini has its own and is tiny already. Leave "
            "--vae tiny out; instead of --speed draft take --speed fast."
        )

    def tiny(checkpoint: Checkpoint) -> Checkpoint:
        changed = checkpoint.with_files(*TAESDXL, without=("vae", "vae-fp16"))
        return replace(changed, name=f"{checkpoint.name} + taesdxl")

    return replace(model, checkpoints=tuple(map(tiny, model.checkpoints)), variants=())
