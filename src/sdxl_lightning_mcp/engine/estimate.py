"""How long a picture will take on a processor: work counted, rate measured."""

import time
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdxl_lightning_mcp.engine.acceleration.attention import context
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.weights import build_networks
from sdxl_lightning_mcp.request import Parameters

PROBE_SIDE = 256


class Estimator:
    """Expects how long a picture takes, for devices that take minutes.

    The work is counted on networks without weights. The rate is measured once, by a small UNet
    call on the real ones; larger calls come near it, so that the answer is good to a factor of two.
    """

    def __init__(self, sdxl: Sdxl) -> None:
        self._sdxl = sdxl
        self._hollow = build_networks(next(iter(sdxl.checkpoints.values())))
        self._flops = lru_cache(maxsize=32)(self._count)

    def seconds(self, parameters: Parameters) -> float:
        """Seconds from the first step to the picture."""
        return self.flops(parameters) / self._rate

    def flops(self, parameters: Parameters) -> int:
        """Floating-point operations of all UNet calls of a picture, and of its decoding."""
        unet, vae = self._flops(parameters.width, parameters.height)
        branches = 2 if parameters.guidance > 1 else 1
        return unet * parameters.steps * branches + vae

    @cached_property
    def _rate(self) -> float:
        """Operations of the UNet a second."""
        flops, _ = self._flops(PROBE_SIDE, PROBE_SIDE)
        unet: Any = self._sdxl.held.networks.unet
        inputs = self._inputs(PROBE_SIDE, PROBE_SIDE, self._sdxl.tuning.device)
        with torch.inference_mode():
            inputs["encoder_hidden_states"] = context(unet, inputs["encoder_hidden_states"])
            # The first call pays for much that later ones do not.
            unet(**inputs)
            started = time.perf_counter()
            unet(**inputs)
            return flops / (time.perf_counter() - started)

    def _count(self, width: int, height: int) -> tuple[int, int]:
        """Floating-point operations of one UNet call and of the decoder."""
        meta = torch.device("meta")
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self._hollow.unet(**self._inputs(width, height, meta))
            unet = counter.get_total_flops()
            vae: Any = self._hollow.vae
            vae.decode(self._inputs(width, height, meta)["sample"].to(vae.dtype))
            return unet, counter.get_total_flops() - unet

    def _inputs(self, width: int, height: int, device: torch.device) -> dict[str, Any]:
        """A UNet call's arguments with nothing in them."""
        scale, dtype = self._sdxl.latent_scale, self._sdxl.tuning.dtype
        config: Any = self._hollow.unet.config
        if device.type == "meta":
            dtype = torch.float32

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        return {
            "sample": zeros(1, self._sdxl.channels, -(-height // scale), -(-width // scale)),
            "timestep": zeros(1),
            "encoder_hidden_states": zeros(1, 77, config.cross_attention_dim),
            "added_cond_kwargs": {"text_embeds": zeros(1, pooled), "time_ids": zeros(1, 6)},
        }
