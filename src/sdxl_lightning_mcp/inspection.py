"""What a weight file is, read from its header alone: without torch, and before anything is opened.

A safetensors file begins with eight bytes of length and a JSON header with every tensor's name,
type, shape and place (https://github.com/huggingface/safetensors, "Format").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdxl_lightning_mcp.checkpoint import PredictionType
from sdxl_lightning_mcp.errors import WeightsError

Kind = Literal["unet", "all-in-one", "lora"]
PICKLES = (".ckpt", ".bin", ".pt", ".pth", ".pkl")
LARGEST_HEADER = 100_000_000

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_L = "conditioner.embedders.0.transformer."
OPEN_CLIP = "conditioner.embedders.1.model."


@dataclass(frozen=True)
class Finding:
    """What a file holds: its kind, and for an all-in-one file which parts beside the UNet.

    `prediction_type` and `zero_snr` (made for a start from pure noise) are what the file's markers
    say. `title` is the name its header gives it.
    """

    kind: Kind
    has_vae: bool = False
    has_text_encoders: bool = False
    prediction_type: PredictionType = "epsilon"
    zero_snr: bool = False
    title: str = ""


def inspect(path: Path) -> Finding:
    """Says what an SDXL file is.

    Raises:
        WeightsError: In one line: it is not there, cut short, a pickle, or not SDXL's and then
            whose it seems to be.
    """
    header = read_header(path)
    metadata: Mapping[str, str] = header.pop("__metadata__", {})
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    if any(_is_lora_key(name) for name in shapes):
        _refuse_foreign_lora(path, shapes)
        return Finding("lora", title=metadata.get("ss_output_name", ""))
    if foreign := _foreign(shapes):
        raise WeightsError(f"{path} is {foreign}; SDXL checkpoints can be run.")
    if "conv_in.weight" in shapes:
        return Finding("unet")
    encoders = [
        prefix for prefix in (CLIP_L, OPEN_CLIP) if any(name.startswith(prefix) for name in shapes)
    ]
    if len(encoders) == 1:
        raise WeightsError(f"{path} holds one of SDXL's two text encoders; both or none are read.")
    prediction = metadata.get("modelspec.prediction_type", "")
    return Finding(
        "all-in-one",
        has_vae=any(name.startswith(f"{VAE}decoder.") for name in shapes),
        has_text_encoders=bool(encoders),
        prediction_type="v_prediction" if "v_pred" in shapes or prediction == "v" else "epsilon",
        zero_snr="ztsnr" in shapes,
        title=metadata.get("modelspec.title", ""),
    )


def read_header(path: Path) -> dict[str, Any]:
    """The header of a whole safetensors file.

    Raises:
        WeightsError: It cannot be read, is cut short, or is something else.
    """
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{path} is a pickle, which can run any program when it is opened; "
            "only .safetensors files are read. Look for the same model as .safetensors."
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise ValueError("no header of that length")
            header = json.loads(file.read(length))
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
        expected = 8 + length + max(ends)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is no whole .safetensors file: its header cannot be read. "
            "If it was downloaded, download it again."
        ) from error
    if size != expected:
        raise WeightsError(
            f"{path} has {size:,} bytes, but its header speaks of {expected:,}: it was cut short. "
            "Download it again."
        )
    return header


def _is_lora_key(name: str) -> bool:
    # Of LyCORIS' kinds only the names are known here; the engine says what it cannot add.
    words = (".lora_", "_lora.", "lora_unet_", "lora_te", ".lokr_", ".hada_", ".dora_scale")
    return any(word in name for word in words) or name.startswith("lora_")


def _refuse_foreign_lora(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    def having(*words: str) -> str | None:
        return next((name for name in shapes if any(word in name for word in words)), None)

    # SDXL has no attention at its first level, and two numbered text encoders.
    old = having(
        "lora_unet_down_blocks_0_attentions",
        "unet.down_blocks.0.attentions",
        "lora_unet_input_blocks_1_1_",
        "lora_te_text_model",
    )
    new = having("double_blocks", "single_transformer_blocks", "joint_blocks", "transformer.")
    if found := old or new:
        family = "Stable Diffusion 1 or 2" if old else "a transformer model such as FLUX or SD 3"
        raise WeightsError(
            f"{path} is a LoRA for {family}, not for SDXL: {found} fits no part of it."
        )


def _foreign(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Says what the tensors are, where they are not an SDXL UNet or an all-in-one file."""

    def any_of(*words: str) -> bool:
        return any(name.startswith(words) for name in shapes)

    bare = UNET if any_of(UNET) else ""
    # The width of what the attention reads tells the text encoder, and so the family.
    context = {
        shape[1]
        for name, shape in shapes.items()
        if name.endswith("attn2.to_k.weight") and len(shape) == 2
    }
    families = {768: "a Stable Diffusion 1 checkpoint", 1024: "a Stable Diffusion 2 checkpoint"}
    first = shapes.get(f"{bare}input_blocks.0.0.weight") or shapes.get("conv_in.weight")
    if any_of(f"{bare}double_blocks.", f"{bare}single_blocks."):
        return "a FLUX checkpoint"
    if any_of(f"{bare}joint_blocks."):
        return "a Stable Diffusion 3 checkpoint"
    if any_of("conditioner.embedders.0.model.", f"{bare}input_blocks.9."):
        is_old = any_of("cond_stage_model.") or any_of(f"{bare}input_blocks.1.1.")
        if not is_old:
            return "an SDXL refiner, which only finishes another model's pictures"
    if any_of(f"{bare}input_blocks.1.1.", "down_blocks.0.attentions.", "cond_stage_model."):
        known = next((families[width] for width in context if width in families), None)
        return known or "a checkpoint of Stable Diffusion's first generations"
    if first is not None and len(first) == 4 and first[1] not in (4, 16):
        return f"made for inpainting or editing ({first[1]} input channels)"
    if any("scaled_fp8" in name or name.endswith(".scale_weight") for name in shapes):
        return "in a scaled fp8 form, which is not read here; look for its fp16 or bf16 file"
    if any_of("edm_"):
        return "made for EDM's noise levels"
    if any_of("encoder.conv_in.", "decoder.conv_in."):
        return "a VAE alone"
    if any_of("controlnet_", "input_hint_block.", "control_model."):
        return "a ControlNet"
    if any_of("clip_l", "clip_g", "emb_params", "string_to_param"):
        return "a textual inversion embedding"
    if first is None:
        name = next(iter(shapes), "nothing")
        return f"no checkpoint that is known here (it holds {name})"
    if not bare and any_of("input_blocks."):
        return "a UNet whose names lack `model.diffusion_model.`, which is not read"
    if not any_of(f"{bare}label_emb.", "add_embedding."):
        return "a UNet without SDXL's size conditioning"
    return ""
