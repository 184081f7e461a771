"""What a runner and its worker say to each other over a pipe.

Frames of four bytes of length and a pickled message. Both ends are the same installation of this
package, one the child of the other, so pickle is safe here and carries pictures as they are.
"""

import pickle
import struct
from dataclasses import dataclass

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Event

LENGTH = struct.Struct(">I")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The first message to a worker: what it shall serve, and how.

    After `idle_seconds` without work the weights leave the device; never, where that is None.
    Pictures come with a preview of at most `preview_bytes`; without one, where that is None.
    """

    model: Model
    device: Device
    max_batch: int = 1
    idle_seconds: float | None = None
    log_level: str = "info"
    preview_bytes: int | None = None


@dataclass(frozen=True)
class Submit:
    """Take this run in."""

    run_id: str
    parameters: Parameters


@dataclass(frozen=True)
class Cancel:
    """Let go of this run."""

    run_id: str


Order = Assignment | Submit | Cancel


def frame(message: Order | Event) -> bytes:
    """A message as it goes over the pipe."""
    body = pickle.dumps(message)
    return LENGTH.pack(len(body)) + body
