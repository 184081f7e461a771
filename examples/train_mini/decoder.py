"""The decoder before training: already a codec, if a blurry one.

Six levels of random layers take long to pass any picture through. So the decoder starts as linear:
the mean colour of each patch, enlarged by repetition. Red, green and blue travel in channels 0 to 5
of every layer as pairs (x, -x), since silu(x) - silu(-x) = x carries them through the last
activation unharmed; channels 6 and 7 hold a constant that keeps the scale of the normalisation
nearly the same for dark and bright pictures. Training adds the detail.
"""

from __future__ import annotations

import torch
from codec import CHANNELS, PATCH, PatchCodec
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn import functional

CARRIED = 8  # channels that carry the picture from layer to layer
LOUD = 3.0  # the constant in channels 6 and 7
LEVEL_256 = 3  # the level of the decoder that works at 256 px


@torch.no_grad()
def start_linear(vae: AutoencoderKL, codec: PatchCodec) -> None:
    """Set the decoder's weights so that it shows the mean colour of every patch."""
    decoder = vae.decoder
    for module in decoder.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.mul_(0.15)
            module.conv2.bias.zero_()
            if module.conv_shortcut is not None:
                carry(module.conv_shortcut, 0.5)
        if isinstance(module, Upsample2D):
            carry(module.conv, 0.7)
    _start_input(decoder.conv_in, codec)
    _start_output(decoder.conv_out)


@torch.no_grad()
def carry(layer: nn.Conv2d, others: float) -> None:
    """Let a convolution copy the carried channels; `others` scales its remaining weights."""
    middle = layer.kernel_size[0] // 2
    layer.weight.mul_(others)
    layer.weight[:CARRIED] = 0
    layer.bias.zero_()
    for k in range(CARRIED):
        layer.weight[k, k, middle, middle] = 1


def _start_input(layer: nn.Conv2d, codec: PatchCodec) -> None:
    """Let the first convolution compute the mean colour of each patch from its latent."""
    scaled = (codec.axes * codec.deviation).reshape(PATCH * PATCH, 3, CHANNELS).mean(0)
    mean = codec.mean.reshape(PATCH * PATCH, 3).mean(0)
    layer.weight[:CARRIED] = 0
    layer.bias.zero_()
    for color in range(3):
        for sign, channel in ((1, 2 * color), (-1, 2 * color + 1)):
            layer.weight[channel, :, 1, 1] = sign * scaled[color]
            layer.bias[channel] = sign * mean[color]
    layer.bias[6], layer.bias[7] = LOUD, -LOUD


def _start_output(layer: nn.Conv2d) -> None:
    """Let the last convolution join the pairs; the eight channels are normalised before it."""
    usual = (2 * (LOUD**2 + 3 * 0.3) / CARRIED) ** 0.5  # their standard deviation
    layer.weight.mul_(0.05)
    layer.bias.zero_()
    for color in range(3):
        layer.weight[color, 2 * color, 1, 1] = usual / 2
        layer.weight[color, 2 * color + 1, 1, 1] = -usual / 2


def decode(vae: AutoencoderKL, latents: torch.Tensor, full: bool = True) -> torch.Tensor:
    """Decode latents (n, 16, h, w) to pictures (n, 3, 32 h, 32 w) on [-1, 1].

    With `full` off the decoder stops at an eighth of the work, 8 px a latent cell, and shows what
    the carried channels hold there: the cheap first part of its training.
    """
    decoder = vae.decoder
    hidden = decoder.mid_block(decoder.conv_in(latents), None)
    for level, block in enumerate(decoder.up_blocks):
        for resnet in block.resnets:
            hidden = resnet(hidden, None)
        if level == LEVEL_256 and not full:
            return torch.stack([hidden[:, 2 * k] - hidden[:, 2 * k + 1] for k in range(3)], 1) / 2
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden)
    return decoder.conv_out(functional.silu(decoder.conv_norm_out(hidden)))
