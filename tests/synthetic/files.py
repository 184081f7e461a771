"""The files of the small model, each as its real counterpart is laid out."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from sdxl_lightning_mcp.engine.synthetic import scale
from sdxl_lightning_mcp.engine.synthetic.files import (
    TEXT_ENCODER,
    TEXT_ENCODER_2,
    UNET,
    VAE,
    write_json,
)
from sdxl_lightning_mcp.engine.synthetic.scale import REAL, SMALL
from sdxl_lightning_mcp.engine.synthetic.weights import FROM_PYTORCH, seeded, write

from .names import all_in_one


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
    write_json(folder / "config.json", scale.tiny_config(REAL))
    weights = seeded(scale.tiny(REAL), seed, gain=1.5)
    write(folder / "diffusion_pytorch_model.safetensors", weights, FROM_PYTORCH)


def write_vae_fix(folder: Path, seed: int = 0) -> None:
    """The VAE that is safe in float16, as a repository of its own, in float32."""
    write_json(folder / "config.json", scale.vae_config(SMALL) | {"force_upcast": False})
    weights = seeded(scale.vae(SMALL, torch.float32), 10 * seed + 4)
    write(folder / "diffusion_pytorch_model.safetensors", weights, FROM_PYTORCH)
