"""LoRAs (Hu et al., arXiv 2106.09685): reading them, and adding them to weights exactly."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sdxl_lightning_mcp.checkpoint import Lora
from sdxl_lightning_mcp.engine.tensors import TensorFile
from sdxl_lightning_mcp.errors import WeightsError
from sdxl_lightning_mcp.hub import locate
from sdxl_lightning_mcp.inspection import read_header

log = logging.getLogger(__name__)

# kohya's scripts write lora_down, lora_up and alpha; PEFT writes lora_A and lora_B; diffusers once
# wrote lora.down and lora.up.
_KEY = re.compile(
    r"(?P<module>.+)\.(?:(?P<down>lora_down|lora_A|lora\.down)\.weight"
    r"|(?P<up>lora_up|lora_B|lora\.up)\.weight|alpha)"
)
_KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


@dataclass(frozen=True)
class Change:
    """What a LoRA adds to one weight: `factor` times `up` @ `down`.

    `down`: (rank, in, ...), `up`: (out, rank, ...), the trailing dimensions those of a kernel.
    """

    down: Tensor
    up: Tensor
    factor: float

    def fits(self, shape: torch.Size) -> bool:
        """Whether it can be added to a weight of that shape."""
        elements = self.up.shape[0] * self.down[0].numel()
        inner = self.up.shape[1] == self.down.shape[0]
        return inner and self.up.shape[0] == shape[0] and elements == shape.numel()

    def added_to(self, weight: Tensor) -> Tensor:
        """The changed weight, in float32 where `weight` lies."""
        up = self.up.to(weight.device, torch.float32).flatten(1)
        down = self.down.to(weight.device, torch.float32).flatten(1)
        return weight.float() + self.factor * (up @ down).view(weight.shape)


Changes = Mapping[str, list[Change]]
"""By a network's parameter names: what is added to it."""


def read_changes(
    loras: tuple[Lora, ...], networks: Mapping[str, nn.Module]
) -> dict[str, dict[str, list[Change]]]:
    """What these LoRAs change in each of the networks unet, text_encoder and text_encoder_2.

    Raises:
        WeightsError: A LoRA holds what cannot be added, or what fits no weight; names it.
    """
    parts: dict[str, dict[str, list[Change]]] = {part: {} for part in networks}
    if not loras:
        return parts
    places = {
        alias: (part, f"{name}.weight", module.weight.shape)
        for part, network in networks.items()
        for name, module in cast(Iterator[tuple[str, nn.Module]], network.named_modules())
        if isinstance(module, nn.Linear | nn.Conv2d)
        for alias in _aliases(part, name)
    }
    for lora in loras:
        path = locate(lora.file)
        if path is None:
            raise WeightsError(f"{lora.file} is missing.")
        changes = _read(path, lora.scale)
        strange = [
            module
            for module, change in changes.items()
            if module not in places or not change.fits(places[module][2])
        ]
        if strange:
            raise WeightsError(
                f"{path} is made for another architecture: "
                f"{_some(strange)} of {len(changes):,} do not fit this model."
            )
        for module, change in changes.items():
            part, parameter, _ = places[module]
            parts[part].setdefault(parameter, []).append(change)
    return parts


def _read(path: Path, scale: float) -> dict[str, Change]:
    """A file's changes by the names it gives to modules."""
    try:
        alphas = _peft_alphas(path)
        with TensorFile(path) as stored:
            tensors = {name: stored.read(name) for name in stored.shapes}
    except OSError as error:
        raise WeightsError(f"{path} cannot be opened: {error}") from error
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("bundle_emb."):
            log.warning("%s: the embeddings in it are not read (%s)", path, name)
            continue
        match = _KEY.fullmatch(_normal(name))
        if match is None:
            raise WeightsError(
                f"{path} cannot be added: {name} belongs to no plain LoRA "
                "(LoHa, LoKr, DoRA and others are not known here)."
            )
        side = "down" if match["down"] else "up" if match["up"] else "alpha"
        pairs.setdefault(match["module"], {})[side] = tensor
    if halves := [name for name, pair in pairs.items() if not {"down", "up"} <= pair.keys()]:
        raise WeightsError(f"{path} cannot be added: half of {_some(halves)} is missing.")
    changes: dict[str, Change] = {}
    for name, pair in pairs.items():
        rank = pair["down"].shape[0]
        # Without an alpha it equals the rank.
        stated = alphas.get(name.partition(".")[0], alphas.get("", rank))
        alpha = float(pair["alpha"]) if "alpha" in pair else stated
        changes[name] = Change(pair["down"], pair["up"], scale * alpha / rank)
    return changes


def _normal(name: str) -> str:
    """A tensor's name without the decorations that some versions of PEFT and diffusers added."""
    name = name.removeprefix("base_model.model.").replace(".default.weight", ".weight")
    name = name.replace(".lora_linear_layer.", ".lora.")
    name = re.sub(r"\.processor\.(to_[qkv])_lora\.", r".\1.lora.", name)
    return name.replace(".processor.to_out_lora.", ".to_out.0.lora.")


def _peft_alphas(path: Path) -> dict[str, float]:
    """PEFT's alphas, which diffusers keeps in the header: by part, or under "" for every part."""
    stored = read_header(path).get("__metadata__", {}).get("lora_adapter_metadata", "{}")
    alphas: dict[str, float] = {}
    for key, value in json.loads(stored).items():
        part, _, field = key.rpartition(".")
        if field in ("alpha_pattern", "rank_pattern", "use_rslora", "use_dora") and value:
            raise WeightsError(f"{path} cannot be added: its {field} is not known here.")
        if field == "lora_alpha":
            alphas[part] = float(value)
    return alphas


def _aliases(part: str, name: str) -> Iterator[str]:
    """The names that files give to a module."""
    if part != "unet" and not name.startswith("text_"):
        # transformers' names in memory are shorter than those in files.
        name = f"text_model.{name}"
    yield f"{part}.{name}"
    if part == "unet":
        yield name
    yield _KOHYA[part] + name.replace(".", "_")
    if part == "unet":
        yield _KOHYA[part] + _original(name).replace(".", "_")


def _original(name: str) -> str:
    """A UNet module's name in Stability AI's own code, from diffusers'; SDXL's three levels."""
    match = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.?(.*)", name)
    if match is None:
        match = re.match(r"mid_block\.(\w+)\.(\d)\.(.*)", name)
        if match is None:
            return name
        kind, index, rest = match.groups()
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{_RESNET.get(rest, rest)}"
    way, level, kind, index, rest = match.groups()
    if way == "down":
        # Two layers and a downsampler a level, after the first convolution.
        number = 1 + 3 * int(level) + (2 if kind == "downsamplers" else int(index))
        if kind == "downsamplers":
            return f"input_blocks.{number}.0.op"
        block = f"input_blocks.{number}"
    else:
        # Three layers a level; the upsampler belongs to the last of them.
        number = 3 * int(level) + (2 if kind == "upsamplers" else int(index))
        if kind == "upsamplers":
            return f"output_blocks.{number}.2.conv"
        block = f"output_blocks.{number}"
    place = 1 if kind == "attentions" else 0
    return f"{block}.{place}.{_RESNET.get(rest, rest)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
