"""Linear layers in 8-bit floating point (e4m3): half the memory, up to twice the rate.

Weights are scaled for each output and inputs for each token, as they come (Micikevicius et al.,
arXiv 2209.05433, for the formats). For GPUs that multiply them: Ada, Hopper, Blackwell.
"""

from typing import Any, cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
# A row of zeros is scaled by this instead of dividing by nothing.
SMALLEST = 1e-12
# The multiplication needs multiples of it; smaller layers gain nothing.
MULTIPLE, LEAST = 16, 512


def round_linears(unet: UNet2DConditionModel, least: int = LEAST) -> int:
    """Rounds the linear layers within a UNet's transformer blocks; the others are few and delicate.

    Args:
        unet: With its weights; it is changed in place, a layer at a time.
        least: Layers with fewer inputs or outputs stay as they are.

    Returns:
        How many layers were rounded.
    """
    rounded = 0
    blocks = [m for m in cast(nn.Module, unet).modules() if isinstance(m, BasicTransformerBlock)]
    for block in blocks:
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear) and _fits(layer, least):
                    setattr(parent, name, Float8Linear(layer))
                    rounded += 1
    return rounded


def _fits(layer: nn.Linear, least: int) -> bool:
    sides = (layer.in_features, layer.out_features)
    return min(sides) >= least and all(side % MULTIPLE == 0 for side in sides)


class Float8Linear(nn.Module):
    """Stands in for a linear layer."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight, scale = _rounded(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())
        bias = cast(Tensor | None, layer.bias)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), in the inputs' data type."""
        rows, scale = _rounded(inputs.reshape(-1, inputs.shape[-1]))
        kernels: Any = torch
        outputs: Tensor = kernels._scaled_mm(
            rows, self.weight.T, scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16
        ).to(inputs.dtype)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], -1)


def _rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in 8 bits, and what its rows are to be multiplied by, (rows, 1) in float32."""
    scale = matrix.abs().amax(dim=1, keepdim=True).float().clamp(min=SMALLEST) / LARGEST
    return (matrix.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale
