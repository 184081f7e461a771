"""Opening a checkpoint's files: each tensor goes from the file to its place on the device, once."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdxl_lightning_mcp.checkpoint import Checkpoint, WeightFile
from sdxl_lightning_mcp.engine.lora import Change, read_changes
from sdxl_lightning_mcp.engine.memory import TILE, Needs, Tier
from sdxl_lightning_mcp.engine.tensors import TensorFile
from sdxl_lightning_mcp.engine.tuning import Tuning
from sdxl_lightning_mcp.errors import WeightsError
from sdxl_lightning_mcp.hub import locate
from sdxl_lightning_mcp.inspection import CLIP_L, OPEN_CLIP, UNET, VAE

HOST = torch.device("cpu")
ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")


@dataclass(frozen=True)
class Networks:
    """The parts of an SDXL checkpoint, ready to be called."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    text_encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]


def build_networks(checkpoint: Checkpoint) -> Networks:
    """The networks as their configurations say, without weights (on the meta device).

    Raises:
        WeightsError: A configuration or a tokenizer is missing or cannot be read.
    """
    # What they say while loading (a missing torchvision, no modules kept in float32) helps no one.
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizers = tuple(_open_tokenizer(checkpoint, name) for name in TOKENIZERS)
        encoder, encoder_2 = (CLIPTextConfig(**_config(checkpoint, name)) for name in ENCODERS)
        with torch.device("meta"):
            return Networks(
                unet=build_unet(checkpoint),
                # The tiny one has its class's defaults; the others share base's configuration.
                vae=AutoencoderTiny()
                if checkpoint.file("vae-tiny")
                else _from_config(AutoencoderKL, _config(checkpoint, "vae")),
                tokenizers=cast(tuple[CLIPTokenizer, CLIPTokenizer], tokenizers),
                text_encoders=(CLIPTextModel(encoder), CLIPTextModelWithProjection(encoder_2)),
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{checkpoint.name} cannot be built: {_line(error)}") from error


def build_unet(checkpoint: Checkpoint) -> UNet2DConditionModel:
    """The UNet alone, without weights (on the meta device). Raises WeightsError."""
    with torch.device("meta"):
        return _from_config(UNet2DConditionModel, _config(checkpoint, "unet"))


def measure(networks: Networks, checkpoint: Checkpoint, tuning: Tuning) -> Needs:
    """What the networks take on a device."""
    vae_dtype = _vae_dtype(networks, checkpoint, tuning)
    return Needs.measure(
        networks.unet,
        networks.vae,
        networks.text_encoders,
        tuning.dtype.itemsize,
        vae_dtype.itemsize,
    )


def _vae_dtype(networks: Networks, checkpoint: Checkpoint, tuning: Tuning) -> torch.dtype:
    safe = checkpoint.file("vae-fp16", "vae-tiny") or not networks.vae.config.get("force_upcast")
    return tuning.vae_dtype(stays_in_float16=bool(safe))


def fill_networks(networks: Networks, checkpoint: Checkpoint, tuning: Tuning) -> None:
    """Gives networks from `build_networks` their weights, and places them as the tier says.

    Raises:
        WeightsError: A file cannot be read or does not fit its network, which is named.
    """
    changes = read_changes(
        checkpoint.loras,
        {
            "unet": networks.unet,
            **dict(zip(ENCODERS, networks.text_encoders, strict=True)),
        },
    )
    parked = replace(tuning, device=HOST) if tuning.tier >= Tier.PARKED else tuning
    for part, encoder in zip(ENCODERS, networks.text_encoders, strict=True):
        _fill(encoder, part, checkpoint, changes[part], parked)
    decoding = replace(tuning, dtype=_vae_dtype(networks, checkpoint, tuning))
    _fill(networks.vae, "vae", checkpoint, {}, decoding)
    _tile(networks.vae, tuning.tier)
    fill_unet(networks.unet, checkpoint, tuning, changes["unet"])


def fill_unet(
    unet: UNet2DConditionModel,
    checkpoint: Checkpoint,
    tuning: Tuning,
    changes: Mapping[str, list[Change]],
) -> None:
    """Gives a UNet from `build_unet` its weights. Raises WeightsError."""
    if tuning.tier < Tier.STREAMED:
        _fill(unet, "unet", checkpoint, changes, tuning)
        return
    _fill(unet, "unet", checkpoint, changes, replace(tuning, device=HOST))
    apply_group_offloading(
        unet,
        onload_device=tuning.device,
        offload_device=HOST,
        offload_type="leaf_level",
        # Copies weights while the layer before computes; only CUDA can.
        use_stream=tuning.device.type == "cuda",
    )


def _tile(vae: Any, tier: Tier) -> None:
    """Decodes in tiles where memory is short: from 1024 px on, or from 512 px on."""
    if tier is Tier.RESIDENT:
        return
    vae.enable_tiling()
    if tier is Tier.STREAMED:
        scale = vae.tile_sample_min_size // vae.tile_latent_min_size
        vae.tile_sample_min_size, vae.tile_latent_min_size = TILE, TILE // scale


def check_unet(checkpoint: Checkpoint) -> None:
    """Holds a UNet's file against its configuration before any of it is read. WeightsError."""
    file = checkpoint.file("unet")
    if file is not None:
        with _opened(file) as stored:
            _check("unet", checkpoint, stored.shapes, _shapes(build_unet(checkpoint)))


def _fill(
    network: Any,
    part: str,
    checkpoint: Checkpoint,
    changes: Mapping[str, list[Change]],
    tuning: Tuning,
) -> None:
    """Puts a part's tensors into a network on the meta device, changed, in the right data type."""
    expected = _shapes(network)
    placed: dict[str, Tensor] = {}
    with _tensors(part, checkpoint, network, tuning) as (shapes, read):
        _check(part, checkpoint, shapes, expected)
        for name in expected:
            tensor = read(name)
            if name in changes:
                tensor = tensor.to(tuning.device, torch.float32)
                for change in changes[name]:
                    tensor = change.added_to(tensor)
            layout = tuning.memory_format if tensor.dim() == 4 else torch.preserve_format
            # Copied also where nothing changes: what was read may lie in a buffer.
            placed[name] = tensor.to(tuning.device, tuning.dtype, copy=True, memory_format=layout)
    network.load_state_dict(placed, assign=True, strict=True)
    for name, buffer in network.named_buffers():
        if buffer.is_meta and name.endswith("position_ids"):
            owner = network.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1], device=tuning.device)[None]
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if tensor.is_meta:
            raise WeightsError(f"{checkpoint.name}: nothing was found for {part}'s {name}.")
    network.eval().requires_grad_(False)


@contextmanager
def _tensors(
    part: str, checkpoint: Checkpoint, network: Any, tuning: Tuning
) -> Generator[tuple[dict[str, torch.Size], Callable[[str], Tensor]]]:
    """The shapes of a part's tensors under the network's names, and how each is read."""
    own = ("vae-tiny", "vae-fp16", "vae") if part == "vae" else (part,)
    file = checkpoint.file(*own, "all-in-one")
    assert file is not None
    with _opened(file, pin=tuning.device.type == "cuda") as stored:
        if file.role == "all-in-one":
            # Its names are translated all at once: the part is read, and let go piece by piece.
            tensors = _converted(part, stored, network)
            shapes, read = {name: one.shape for name, one in tensors.items()}, tensors.pop
        else:
            shapes, read = stored.shapes, stored.window
        # In some files; SDXL reads none of them.
        unread = {"text_model.embeddings.position_ids", "logit_scale"}
        if part == "text_encoder":
            unread.add("text_projection.weight")
        names = {_short(name, network): name for name in shapes if name not in unread}
        yield {short: shapes[name] for short, name in names.items()}, lambda name: read(names[name])


def _short(name: str, network: Any) -> str:
    """A tensor's name in memory; transformers has left out a prefix there that files still have."""
    return name if hasattr(network, "text_model") else name.removeprefix("text_model.")


@contextmanager
def _opened(file: WeightFile, pin: bool = False) -> Generator[TensorFile]:
    path = locate(file)
    if path is None:
        raise WeightsError(f"{file} is missing.")
    try:
        with TensorFile(path, pin) as stored:
            yield stored
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be opened: {_line(error)}") from error


def _converted(part: str, stored: TensorFile, network: Any) -> dict[str, Tensor]:
    """A part of an all-in-one file under diffusers' and transformers' names."""
    prefix = {"unet": UNET, "vae": VAE, "text_encoder": CLIP_L, "text_encoder_2": OPEN_CLIP}[part]
    tensors = {name: stored.read(name) for name in stored.shapes if name.startswith(prefix)}
    formats: Any = single_file_utils
    match part:
        case "unet":
            return formats.convert_ldm_unet_checkpoint(tensors, network.config)
        case "vae":
            return formats.convert_ldm_vae_checkpoint(tensors, network.config)
        case "text_encoder":
            return formats.convert_ldm_clip_checkpoint(tensors, CLIP_L)
        case _:
            return formats.convert_open_clip_checkpoint(None, tensors, OPEN_CLIP)


def _shapes(network: Any) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _check(
    part: str,
    checkpoint: Checkpoint,
    found: Mapping[str, torch.Size],
    expected: Mapping[str, torch.Size],
) -> None:
    """Refuses a file that does not fill the network exactly."""
    lacking = [name for name in expected if name not in found]
    beyond = [name for name in found if name not in expected]
    other = [name for name in expected if found.get(name) not in (None, expected[name])]
    for names, what in ((lacking, "lacks"), (beyond, "has too much:"), (other, "has other sizes:")):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise WeightsError(
                f"{checkpoint.name}: its {part} {what} {names[0]}{more}; "
                "it is cut short or of another architecture."
            )


def _from_config(network: Any, config: dict[str, Any]) -> Any:
    return network.from_config(config)


def _config(checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    return json.loads(_path(checkpoint, f"{part}/config.json").read_text("utf-8"))


def _open_tokenizer(checkpoint: Checkpoint, part: str) -> CLIPTokenizer:
    files = [file for file in checkpoint.files if file.role.startswith(f"{part}/")]
    if not files:
        raise WeightsError(f"{checkpoint.name}: it has no {part}.")
    folder = _path(checkpoint, files[0].role).parent
    tokenizer: Any = CLIPTokenizer
    return tokenizer.from_pretrained(folder, local_files_only=True)


def _path(checkpoint: Checkpoint, role: str) -> Path:
    file = checkpoint.file(role)
    path = file and locate(file)
    if path is None:
        raise WeightsError(f"{file or f'{checkpoint.name}: {role}'} is missing.")
    return path


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
