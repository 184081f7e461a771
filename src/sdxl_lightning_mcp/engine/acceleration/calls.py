"""What is called of the networks, as modules that can be replayed and compiled."""

from typing import Any

import torch
from torch import Tensor, nn

from sdxl_lightning_mcp.engine.weights import Networks

Form = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def forms(tensors: list[Tensor] | tuple[Tensor, ...]) -> tuple[Form, ...]:
    """Shape, stride and data type of each: all that a call is recorded and compiled for."""
    return tuple((tuple(one.shape), one.stride(), one.dtype) for one in tensors)


def calls(networks: Networks) -> "dict[str, UnetCall | DecoderCall]":
    """The parts of a model that are called for every picture."""
    return {"unet": UnetCall(networks.unet), "decoder": DecoderCall(networks.vae)}


def named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's parameters and buffers, in the order that its code says."""
    return [*module.named_parameters(), *module.named_buffers()]


class UnetCall(nn.Module):
    """One UNet call for samples that stand at different timesteps."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.network = unet

    def forward(
        self, latents: Tensor, timesteps: Tensor, context: Tensor, pooled: Tensor, sizes: Tensor
    ) -> Tensor:
        """The prediction, in the latents' shape.

        Args:
            latents: Scaled noisy latents, (B, C, h, w).
            timesteps: (B,).
            context: What `attention.context` made of the prompts, (B, length, width).
            pooled: The second text encoder's projection, (B, width).
            sizes: SDXL's micro-conditioning, (B, 6).
        """
        told = {"text_embeds": pooled, "time_ids": sizes}
        return self.network(
            latents,
            timesteps,
            encoder_hidden_states=context,
            added_cond_kwargs=told,
            return_dict=False,
        )[0]


class DecoderCall(nn.Module):
    """From latents to the bytes of a picture."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.network = vae

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (height, width, 3) in uint8 of latents (1, C, h, w), and a sum that tells health.

        The sum is no number where one of its parts is none, and needs no tensor of flags.
        """
        pixels: Tensor = self.network.decode(latents, return_dict=False)[0][0].float()
        total = pixels.sum()
        # In place: at this size every new tensor costs as much as the arithmetic.
        levels = pixels.div_(2).add_(0.5).clamp_(0, 1).mul_(255).round_().to(torch.uint8)
        return levels.permute(1, 2, 0).contiguous(), total
