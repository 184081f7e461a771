"""A person's own checkpoint, a folder or a file, as a model."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sdxl_lightning_mcp.catalogue import (
    CATALOGUE,
    SDXL_BASE,
    SDXL_CONFIGS,
    SDXL_TEXT_ENCODERS,
    VAE_FIX,
)
from sdxl_lightning_mcp.checkpoint import (
    Checkpoint,
    License,
    Model,
    PredictionType,
    Spacing,
    WeightFile,
)
from sdxl_lightning_mcp.errors import WeightsError
from sdxl_lightning_mcp.hashes import sha256
from sdxl_lightning_mcp.inspection import inspect, read_header

ZERO_SNR = "These weights are made for zero terminal SNR, which is not sampled here."
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
OWN_LICENSE = License("as its author says")
# What people put into the names of weights that need few steps. "hyper" and the short ones are also
# beginnings of other words.
FEW_STEPS = re.compile(
    r"lightning|turbo|(?<![a-z])(?:lcm|dmd2?|hyper(?=[-_ ]?sd))(?![a-z]{3})", re.IGNORECASE
)
STEP_COUNT = re.compile(r"(?<!\d)([1-9]|1[0-2])[-_ ]?steps?(?![a-z])", re.IGNORECASE)
# diffusers' names of what this sampler does; a folder that says otherwise would be sampled wrongly.
SCHEDULE: dict[str, tuple[object, ...]] = {
    "beta_schedule": ("scaled_linear",),
    "beta_start": (0.00085,),
    "beta_end": (0.012,),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
}


def own_file(path: Path) -> Model:
    """A .safetensors file with a UNet, alone or with text encoders and VAE. Raises WeightsError."""
    finding = inspect(path)
    if finding.kind == "lora":
        raise WeightsError(f"{path} is a LoRA: give it as --lora beside a --model.")
    if known := recognised(path):
        return known_model(known, path)
    files = (*SDXL_CONFIGS, WeightFile(finding.kind, path.name, path.parent))
    if not finding.has_text_encoders:
        files += SDXL_TEXT_ENCODERS
    if not finding.has_vae:
        files += VAE_FIX
    words = f"{path.stem} {finding.title}"
    model = _model(path, words, files, finding.prediction_type, "trailing")
    if finding.zero_snr:
        model = replace(model, notes=(*model.notes, ZERO_SNR))
    return model


def own_folder(folder: Path) -> Model:
    """A folder as diffusers saves an SDXL pipeline. Raises WeightsError."""
    name = _read_json(folder / "model_index.json").get("_class_name")
    if name != "StableDiffusionXLPipeline":
        raise WeightsError(f"{folder} is a {name}; a StableDiffusionXLPipeline can be run.")
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    for field, allowed in SCHEDULE.items():
        if scheduler.get(field, allowed[0]) not in allowed:
            raise WeightsError(
                f"{folder}: its scheduler has {field} {scheduler[field]}; "
                f"what can be run: {', '.join(map(str, allowed))}."
            )
    sampler = str(scheduler.get("_class_name", ""))
    if "Flow" in sampler or "EDM" in sampler:
        raise WeightsError(f"{folder} is made for another kind of noise ({sampler}).")
    weights = {role: _weights(folder / role) for role in NETWORKS}
    for path in weights.values():
        read_header(path)
    small = [folder / role / "config.json" for role in NETWORKS]
    for part in ("tokenizer", "tokenizer_2"):
        small += sorted(path for path in (folder / part).glob("*") if path.is_file())
    files = [
        WeightFile(role, path.relative_to(folder).as_posix(), folder)
        for role, path in weights.items()
    ]
    for path in small:
        role = path.relative_to(folder).as_posix()
        files.append(WeightFile(role, role, folder))
    spacing = scheduler.get("timestep_spacing", "leading")
    model = _model(
        folder,
        folder.name,
        tuple(files),
        cast(PredictionType, scheduler.get("prediction_type", "epsilon")),
        "leading" if spacing == "leading" else "trailing",
    )
    notes = [*model.notes]
    if scheduler.get("rescale_betas_zero_snr"):
        notes.append(ZERO_SNR)
    if spacing not in ("leading", "trailing"):
        notes.append(f"Its timesteps are laid out as {spacing}; trailing ones are used.")
    return replace(model, notes=tuple(notes))


def recognised(path: Path) -> Checkpoint | None:
    """The catalogue's checkpoint that this file is, whatever its name: by size, then by hash."""
    size = path.stat().st_size
    for model in CATALOGUE.values():
        for checkpoint in (*model.checkpoints, *model.variants):
            file = checkpoint.own_file
            # Most of a person's files have another size, and need not be read for this.
            if file and file.bytes == size and file.sha256 == sha256(path):
                return checkpoint
    return None


def known_model(checkpoint: Checkpoint, path: Path) -> Model:
    """The catalogue's model of that checkpoint, opened from a file of the person's own."""
    model = next(
        model for model in CATALOGUE.values() if checkpoint in (*model.checkpoints, *model.variants)
    )
    mine = tuple(
        replace(file, source=path.parent, path=path.name)
        if file.role in ("unet", "all-in-one")
        else file
        for file in checkpoint.files
    )
    return model.narrowed(replace(checkpoint, files=mine))


def few_steps(words: str) -> int | None:
    """The number of steps that a name says weights are made for; None where it says nothing.

    Nothing inside a file tells.
    """
    if count := STEP_COUNT.search(words):
        return int(count[1])
    return 4 if FEW_STEPS.search(words) else None


def guess_note(name: str, steps: int) -> str:
    """What is to be said where a name was believed."""
    return (
        f"{name} is taken to be made for {steps} steps without guidance, because of its name. "
        "Where it is not, say steps and guidance with the prompt."
    )


def _model(
    path: Path,
    words: str,
    files: tuple[WeightFile, ...],
    predicts: PredictionType,
    spacing: Spacing,
) -> Model:
    """SDXL base's limits around a person's weights."""
    few = few_steps(words)
    checkpoint = Checkpoint(
        name=path.stem if path.is_file() else path.name,
        files=files,
        steps=few or SDXL_BASE.default_steps,
        guidance=0.0 if few else SDXL_BASE.default_guidance,
        prediction_type=predicts,
        license=OWN_LICENSE,
        spacing="trailing" if few else spacing,
    )
    model = replace(
        SDXL_BASE,
        slug=checkpoint.name,
        title=checkpoint.name,
        summary=f"A checkpoint of SDXL's architecture from {path}.",
        notes=(guess_note(checkpoint.name, few),) if few else (),
    )
    return model.narrowed(checkpoint)


def _weights(folder: Path) -> Path:
    """The file with a network's weights; half precision where both are there."""
    found = sorted(folder.glob("*.safetensors"))
    halves = [path for path in found if ".fp16." in path.name]
    whole = [path for path in found if path.stem in ("model", "diffusion_pytorch_model")]
    if (chosen := halves or whole) and len(chosen) == 1:
        return chosen[0]
    if found:
        raise WeightsError(f"{folder} is in {len(found)} pieces; save it in one, or as fp16.")
    pickles = [path.name for path in folder.glob("*.bin")]
    why = f" Only {pickles[0]} is there, a pickle, which is not opened." if pickles else ""
    raise WeightsError(f"{folder} has no .safetensors file.{why}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict):
            return cast(dict[str, Any], found)
        raise ValueError("it holds no object")
    except FileNotFoundError:
        raise WeightsError(
            f"{path} is missing: a folder needs diffusers' layout, with model_index.json at its "
            "top. A single file is given by its own path."
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}.") from error
