"""The files of the small model, each as its real counterpart is laid out."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from . import scale
from .names import all_in_one
from .scale import REAL, SMALL
from .weights import FROM_PYTORCH, seeded, write
from .words import tokenizer_files, write_tokenizer

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
VAE = "vae/diffusion_pytorch_model.fp16.safetensors"
TEXT_ENCODER = "text_encoder/model.fp16.safetensors"
TEXT_ENCODER_2 = "text_encoder_2/model.fp16.safetensors"


def _write_json(path: Path, content: scale.Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_base(folder: Path, seed: int = 0, size: scale.Scale = SMALL) -> None:
    """The base repository's fp16 set: all that `from_pretrained(variant="fp16")` reads."""
    for path, content in scale.base_configs(size).items():
        _write_json(folder / path, content)
    words = tokenizer_files()
    for tokenizer in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / tokenizer, words)
    # The encoders are louder than untrained ones, so that other words give another picture.
    parts = (
        (UNET, scale.unet(size), 1.0),
        (VAE, scale.vae(size), 1.0),
        (TEXT_ENCODER, scale.text_encoder(size), 3.0),
        (TEXT_ENCODER_2, scale.text_encoder_2(size), 3.0),
    )
    for offset, (path, shapes, gain) in enumerate(parts):
        write(folder / path, seeded(shapes, 10 * seed + offset, gain), FROM_PYTORCH)


def write_unet(path: Path, seed: int) -> None:
    """A Lightning UNet file: diffusers' names and no metadata. Seed 0 has the base's numbers."""
    write(path, seeded(scale.unet(SMALL), 10 * seed))


def write_all_in_one(
    path: Path, base: Path, unet: Path | None = None, v_prediction: bool = False
) -> None:
    """The base folder's parts in one file under SGM's names, with another UNet if one is given.

    A model that predicts velocity has two empty tensors as marks, as the makers of such files
    leave them.
    """
    tensors = all_in_one(
        load_file(unet or base / UNET),
        load_file(base / VAE),
        load_file(base / TEXT_ENCODER),
        load_file(base / TEXT_ENCODER_2),
    )
    if v_prediction:
        tensors |= {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    write(path, tensors)


def write_taesdxl(folder: Path, seed: int = 0) -> None:
    """The tiny VAE as a repository of its own, in float32; at its real size, which is small."""
    _write_json(folder / "config.json", scale.tiny_config(REAL))
    weights = seeded(scale.tiny(REAL), seed, gain=1.5)
    write(folder / "diffusion_pytorch_model.safetensors", weights, FROM_PYTORCH)


def write_vae_fix(folder: Path, seed: int = 0) -> None:
    """The VAE that is safe in float16, as a repository of its own, in float32."""
    _write_json(folder / "config.json", scale.vae_config(SMALL) | {"force_upcast": False})
    weights = seeded(scale.vae(SMALL, torch.float32), 10 * seed + 4)
    write(folder / "diffusion_pytorch_model.safetensors", weights, FROM_PYTORCH)
