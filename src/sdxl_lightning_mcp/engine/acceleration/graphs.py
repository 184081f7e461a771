"""CUDA graphs: a call recorded once and launched as a whole, since launches cost more than math."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor

from sdxl_lightning_mcp.engine.acceleration.calls import forms

log = logging.getLogger(__name__)

Outputs = Tensor | tuple[Tensor, ...]
Call = Callable[..., Outputs]

# A call is recorded when it comes for this time: libraries choose their kernels in the first ones.
RECORDED_AT = 3
# Each holds the memory of its activations.
MOST = 12


class Capture(Protocol):
    """Records a call on inputs at fixed places; what it returns computes it anew."""

    def __call__(self, call: Call, inputs: tuple[Tensor, ...]) -> Callable[[], Outputs]:
        """The returned function reads `inputs`, and its outputs lie at fixed places too."""
        ...


class Graphs:
    """Recorded calls, the latest used ones, each for one call and one set of shapes."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._seen: dict[Hashable, int] = {}
        self._failed: set[Hashable] = set()
        self._graphs: OrderedDict[Hashable, tuple[tuple[Tensor, ...], Callable[[], Outputs]]] = (
            OrderedDict()
        )

    def __call__(self, name: Hashable, call: Call, *inputs: Tensor) -> Outputs:
        """Calls, or replays a recorded call; outputs hold until the next one of the same shapes.

        `name` stands for `call`: another function needs another name.
        """
        key = (name, *forms(inputs))
        if key not in self._graphs and not self._due(key):
            return call(*inputs)
        if key not in self._graphs and not self._record(key, call, inputs):
            return call(*inputs)
        places, replay = self._graphs[key]
        self._graphs.move_to_end(key)
        for place, one in zip(places, inputs, strict=True):
            place.copy_(one)
        return replay()

    def clear(self) -> None:
        """Forgets all: the weights they read are about to move."""
        self._graphs.clear()
        self._seen.clear()
        self._failed.clear()

    def _due(self, key: Hashable) -> bool:
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key] >= RECORDED_AT and key not in self._failed

    def _record(self, key: Hashable, call: Call, inputs: tuple[Tensor, ...]) -> bool:
        while len(self._graphs) >= MOST:
            self._graphs.popitem(last=False)
        places = tuple(one.clone() for one in inputs)
        try:
            self._graphs[key] = (places, self._capture(call, places))
        except RuntimeError as error:
            # A graph saves time only; without one the same is computed.
            log.warning("no CUDA graph: %s", str(error).splitlines()[0])
            self._failed.add(key)
        return key in self._graphs


class CudaCapture:
    """Records on a CUDA device; all graphs share a pool, since one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Call, inputs: tuple[Tensor, ...]) -> Callable[[], Outputs]:
        """Records; a side stream warms up first, as CUDA asks for."""
        current = torch.cuda.current_stream(self._device)
        side = torch.cuda.Stream(self._device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            call(*inputs)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = call(*inputs)

        def replay() -> Outputs:
            graph.replay()
            return outputs

        return replay
