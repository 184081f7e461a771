"""LoRAs: one set of factors, written under each of the names that files in use have."""

import math
import re
from pathlib import Path
from typing import Literal

import torch

from .names import sgm_unet_name
from .scale import SMALL, Scale, Tensors, text_encoder, text_encoder_2, unet
from .weights import write

Naming = Literal["diffusers", "sgm", "peft"]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]

NOT_TRAINED = ("conv_in.", "conv_out.", "time_embedding.", "add_embedding.")
TRAINED_TEXT = r"\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])\.weight$"
PARTS = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def lora_modules(scale: Scale, text_encoders: bool = False) -> Tensors:
    """The weights that a LoRA changes, by module: Lightning's 788 of the UNet, and the encoders'.

    A name is the part's and the module's, as in `text_encoder.text_model.encoder.layers.0.mlp.fc1`.
    """
    weights = {
        f"unet.{name}": weight
        for name, weight in unet(scale).items()
        if weight.ndim > 1 and not name.startswith(NOT_TRAINED)
    }
    if text_encoders:
        for part, encoder in (
            ("text_encoder", text_encoder(scale)),
            ("text_encoder_2", text_encoder_2(scale)),
        ):
            weights |= {
                f"{part}.{name}": weight
                for name, weight in encoder.items()
                if re.search(TRAINED_TEXT, name)
            }
    return {name.removesuffix(".weight"): weight for name, weight in weights.items()}


def lora_shapes(scale: Scale, rank: int, text_encoders: bool = False) -> dict[str, Shapes]:
    """The shapes of down and up by module."""
    return {
        module: (
            (rank, *weight.shape[1:]),
            (weight.shape[0], rank, *(1 for _ in weight.shape[2:])),
        )
        for module, weight in lora_modules(scale, text_encoders).items()
    }


def _factors(seed: int, rank: int, text_encoders: bool) -> Factors:
    """Down and up in float16; a delta of alpha 32 is about as large as the weight it changes."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(shape: tuple[int, ...], bound: float) -> torch.Tensor:
        return torch.empty(shape).uniform_(-bound, bound, generator=generator).half()

    return {
        module: (numbers(down, 1 / math.sqrt(math.prod(down[1:]))), numbers(up, 0.1))
        for module, (down, up) in lora_shapes(SMALL, rank, text_encoders).items()
    }


def lora_deltas(
    seed: int, alpha: float = 32.0, rank: int = 4, text_encoders: bool = False
) -> Tensors:
    """What `write_lora` with the same arguments adds to each module's weight, in float32."""
    return {
        module: alpha
        / rank
        * (up.float().flatten(1) @ down.float().flatten(1)).reshape(up.shape[0], *down.shape[1:])
        for module, (down, up) in _factors(seed, rank, text_encoders).items()
    }


def _kohya_name(module: str, naming: Naming) -> str:
    part, path = module.split(".", 1)
    if part == "unet" and naming == "sgm":
        path = sgm_unet_name(path)
    return f"{PARTS[part]}_{path.replace('.', '_')}"


def kohya(factors: Factors, alpha: float, naming: Naming) -> Tensors:
    """Three tensors a module, as Lightning's own and kohya's files have them."""
    tensors: Tensors = {}
    for module, (down, up) in factors.items():
        name = _kohya_name(module, naming)
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
        tensors[f"{name}.lora_down.weight"] = down
        tensors[f"{name}.lora_up.weight"] = up
    return tensors


def write_lora(
    path: Path,
    seed: int,
    alpha: float = 32.0,
    rank: int = 4,
    naming: Naming = "diffusers",
    text_encoders: bool = False,
) -> None:
    """A LoRA for the small model; the same arguments make the same change under each naming.

    "diffusers" is Lightning's own layout, "sgm" what kohya's trainer writes for SDXL, and "peft"
    what diffusers writes: it has no alpha, so that alpha / rank is multiplied into the second
    factor, which is exact where it is a power of two.
    """
    factors = _factors(seed, rank, text_encoders)
    if naming != "peft":
        write(path, kohya(factors, alpha, naming))
        return
    if math.frexp(alpha / rank)[0] != 0.5:
        raise ValueError(f"alpha / rank is {alpha / rank}, which is not a power of two")
    tensors: Tensors = {}
    for module, (down, up) in factors.items():
        tensors[f"{module}.lora_A.weight"] = down
        tensors[f"{module}.lora_B.weight"] = up * (alpha / rank)
    write(path, tensors)
