"""Finding, verifying and opening checkpoint files."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdxl_lightning_mcp.catalogue import Checkpoint
from sdxl_lightning_mcp.engine.tuning import Tuning
from sdxl_lightning_mcp.errors import WeightsError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Networks:
    """The parts of an SDXL checkpoint, on their device, ready to be called."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]


def verify(checkpoint: Checkpoint) -> Iterable[str]:
    """Checks each file's presence, size and hash; yields its path as it is found right.

    Raises:
        WeightsError: Naming the first file that is missing or not the one expected.
    """
    cure = "Install the package again."
    for file in checkpoint.files:
        path = checkpoint.folder / file.path
        if not path.is_file():
            raise WeightsError(f"{checkpoint.name}: {path} is missing. {cure}")
        size = path.stat().st_size
        if size != file.bytes:
            raise WeightsError(
                f"{checkpoint.name}: {path} has {size:,} bytes, expected {file.bytes:,}. {cure}"
            )
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                raise WeightsError(f"{checkpoint.name}: {path} has other contents. {cure}")
        yield file.path


def open_networks(checkpoint: Checkpoint, tuning: Tuning) -> Networks:
    """Opens all parts of a verified checkpoint.

    Raises:
        WeightsError: A file cannot be read or does not fit its network, which is named.
    """
    # What they say while loading (a missing torchvision, no modules kept in float32) helps no one.
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder = checkpoint.folder
    try:
        return Networks(
            unet=_place(_open_diffusers(UNet2DConditionModel, folder / "unet"), tuning),
            vae=_place(_open_diffusers(AutoencoderKL, folder / "vae"), tuning),
            tokenizers=(
                _open_tokenizer(CLIPTokenizer, folder / "tokenizer"),
                _open_tokenizer(CLIPTokenizer, folder / "tokenizer_2"),
            ),
            text_encoders=(
                _place(_open_clip(CLIPTextModel, folder / "text_encoder"), tuning),
                _place(_open_clip(CLIPTextModelWithProjection, folder / "text_encoder_2"), tuning),
            ),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{checkpoint.name} in {folder} cannot be opened: {error}") from error


def _open_diffusers(network: Any, folder: Path) -> Any:
    """Builds the network without memory, then lets it take the file's tensors as they are."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    with torch.device("meta"):
        built = network.from_config(config)
    tensors: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    built.load_state_dict(tensors, assign=True, strict=True)
    return built


def _open_tokenizer(tokenizer: Any, folder: Path) -> Any:
    return tokenizer.from_pretrained(folder, local_files_only=True)


def _open_clip(network: Any, folder: Path) -> Any:
    # transformers keeps other names in memory than on disk, so it has to load its own files.
    return network.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )


def _place(network: Any, tuning: Tuning) -> Any:
    network = network.eval().requires_grad_(False)
    return network.to(device=tuning.device, dtype=tuning.dtype, memory_format=tuning.memory_format)
