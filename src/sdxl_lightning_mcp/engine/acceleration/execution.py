"""How networks are called: as they are, compiled once that is ready, replayed as CUDA graphs."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from sdxl_lightning_mcp.checkpoint import Checkpoint
from sdxl_lightning_mcp.engine.acceleration.artefacts import Artefacts, Recipe
from sdxl_lightning_mcp.engine.acceleration.calls import Form, calls, forms, named_tensors
from sdxl_lightning_mcp.engine.acceleration.graphs import Capture, Graphs
from sdxl_lightning_mcp.engine.tuning import Tuning, attention_order
from sdxl_lightning_mcp.engine.weights import Networks

# Compiling takes minutes of a processor: not for one picture, nor for shapes that may never come
# again. So many calls; a picture has one of the UNet for every step.
WORTH_IT_AT = {"unet": 12, "decoder": 4}


class Execution:
    """Calls one set of networks. `version` rises when it begins to compute in another way.

    The first pictures are computed at once and as the networks are; what makes later ones faster
    is prepared meanwhile and taken up between two calls.
    """

    def __init__(
        self,
        networks: Networks,
        checkpoint: Checkpoint,
        tuning: Tuning,
        artefacts: Artefacts,
        capture: Capture | None,
    ) -> None:
        self.version = 0
        self._calls = calls(networks)
        self._checkpoint, self._tuning, self._artefacts = checkpoint, tuning, artefacts
        self._graphs = Graphs(capture) if capture else None
        self._weights = {
            part: [tensor for _, tensor in named_tensors(call)]
            for part, call in self._calls.items()
        }
        self._forms = {part: forms(tensors) for part, tensors in self._weights.items()}
        self._seen: dict[tuple[str, tuple[Form, ...]], int] = {}
        self._recipes: dict[tuple[str, tuple[Form, ...]], Recipe] = {}
        self._compiled: dict[tuple[str, tuple[Form, ...]], Callable[..., Any]] = {}

    def unet(self, *inputs: Tensor) -> Tensor:
        """The UNet's prediction for a batch, as `UnetCall`; it holds until the next call."""
        rows = inputs[0].shape[0]
        if self._graphs:
            # A graph has one size: few sizes, then, and some rows for nothing.
            inputs = tuple(_padded(one, 1 << (rows - 1).bit_length()) for one in inputs)
        return cast(Tensor, self._call("unet", inputs))[:rows]

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels and a sum, as `DecoderCall`; they hold until the next call."""
        return cast(tuple[Tensor, Tensor], self._call("decoder", (latents,)))

    def let_go(self) -> None:
        """Forgets where weights lie, since they are about to move."""
        if self._graphs:
            self._graphs.clear()

    def _call(self, part: str, inputs: tuple[Tensor, ...]) -> Any:
        call = self._find_compiled(part, inputs) if part in self._tuning.compiled else None
        name = (part, call is not None)
        call = call or self._calls[part]
        with attention_order(self._tuning):
            return self._graphs(name, call, *inputs) if self._graphs else call(*inputs)

    def _find_compiled(self, part: str, inputs: tuple[Tensor, ...]) -> Callable[..., Any] | None:
        key = (part, forms(inputs))
        if key in self._compiled:
            return self._compiled[key]
        self._seen[key] = self._seen.get(key, 0) + 1
        if key not in self._recipes:
            config: Any = self._calls[part].network.config
            self._recipes[key] = Recipe(
                part, self._checkpoint, self._tuning, dict(config), self._forms[part], key[1]
            )
        worth_it = self._seen[key] >= WORTH_IT_AT[part]
        found = self._artefacts.find(self._recipes[key], make=worth_it)
        if found is None:
            return None
        self.version += 1
        self._compiled[key] = partial(found, self._weights[part])
        return self._compiled[key]


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """With its last row repeated up to so many rows."""
    missing = rows - tensor.shape[0]
    return (
        tensor
        if missing == 0
        else torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
    )
