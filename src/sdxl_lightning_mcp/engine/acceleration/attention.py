"""The UNet's attention with less work: joined projections, and a prompt's keys and values once.

What a layer's cross-attention makes of a prompt is the same at every step, so all layers' key and
value projections become one layer that reads the prompt once, before the first step.
"""

from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

CONTEXT = "context_projection"


def rewire(unet: UNet2DConditionModel) -> None:
    """Changes a UNet that has its weights; from then on it is told `context` instead of tokens.

    Weights move, none is held twice but one layer's at a time.
    """
    network = cast(nn.Module, unet)
    attentions = [one for one in network.modules() if isinstance(one, Attention)]
    crossing = [one for one in attentions if one.is_cross_attention]
    width = sum(2 * _projection(one.to_k).out_features for one in crossing)
    first = _projection(crossing[0].to_k)
    everything = torch.empty(
        width, first.in_features, dtype=first.weight.dtype, device=first.weight.device
    )
    start = 0
    for attention in attentions:
        if not attention.is_cross_attention:
            _join_self_attention(attention)
            continue
        inner = _projection(attention.to_k).out_features
        for layer in (attention.to_k, attention.to_v):
            everything[start : start + inner] = _projection(layer).weight
            start += inner
        attention.set_processor(cast(Any, _CrossAttention(start - 2 * inner, inner)))
        del attention.to_k, attention.to_v
    network.add_module(CONTEXT, _linear(everything))


def context(unet: UNet2DConditionModel, tokens: Tensor) -> Tensor:
    """What a UNet is told of a prompt: (1, length, width) tokens as they are, or once projected."""
    projection = getattr(unet, CONTEXT, None)
    return tokens if projection is None else projection(tokens)


def _join_self_attention(attention: Attention) -> None:
    layers = (attention.to_q, attention.to_k, attention.to_v)
    joined = torch.cat([_projection(layer).weight for layer in layers])
    attention.add_module("to_qkv", _linear(joined))
    del attention.to_q, attention.to_k, attention.to_v
    attention.set_processor(cast(Any, _SelfAttention()))


class _SelfAttention:
    """Queries, keys and values in one multiplication."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        joined: Tensor = attn.to_qkv(hidden_states)
        return _attend(attn, *joined.chunk(3, dim=-1))


class _CrossAttention:
    """Takes this layer's keys and values out of the context."""

    def __init__(self, start: int, inner: int) -> None:
        self._start = start
        self._inner = inner

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        *_: object,
        **__: object,
    ) -> Tensor:
        keys = encoder_hidden_states.narrow(-1, self._start, self._inner)
        values = encoder_hidden_states.narrow(-1, self._start + self._inner, self._inner)
        return _attend(attn, attn.to_q(hidden_states), keys, values)


def _attend(attn: Any, *projected: Tensor) -> Tensor:
    """Attention over (B, length, heads x width of a head) queries, keys and values."""
    query, key, value = (
        one.view(*one.shape[:2], attn.heads, -1).transpose(1, 2) for one in projected
    )
    attended = scaled_dot_product_attention(query, key, value)
    return attn.to_out[0](attended.transpose(1, 2).flatten(2))


def _projection(layer: Any) -> nn.Linear:
    assert isinstance(layer, nn.Linear)
    assert layer.bias is None
    return layer


def _linear(weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer
