"""What a runner and its worker say to each other, over a pipe or a socket.

Frames of four bytes of length and a pickled message. Both ends are the same installation of this
package, started by the same person: one is the child of the other, or they meet in a folder that is
that person's alone. So pickle is safe here, and carries pictures as they are.
"""

import pickle
import struct
from dataclasses import dataclass

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Event
from sdxl_lightning_mcp.settings import Speed

LENGTH = struct.Struct(">I")
# Before its frames a shared worker says this to each server: it will be looked at.
GREETING = b"\x01"
# What one says on stdout when it is started; nothing, where it has died before.
LISTENING, TAKEN = b"listening", b"taken"


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The first message to a worker: what it shall serve, and how.

    At most `max_batch` runs share a UNet call; None leaves it to the device. After `idle_seconds`
    without work the weights leave the device; never, where that is None. Pictures come with a
    preview of at most `preview_bytes`; without one, where that is None.
    """

    model: Model
    device: Device
    speed: Speed = Speed.NORMAL
    max_batch: int | None = None
    idle_seconds: float | None = None
    log_level: str = "info"
    preview_bytes: int | None = None


@dataclass(frozen=True)
class Attach:
    """A server's first message to a worker that several share.

    The worker's own assignment is that of the first. When the last server has left, it stays for
    `linger_seconds`, the longest that any of them asked for.
    """

    assignment: Assignment
    linger_seconds: float


@dataclass(frozen=True)
class Submit:
    """Take this run in; those of a lower `round` come before it, and then those that came first."""

    run_id: str
    parameters: Parameters
    round: int = 0


@dataclass(frozen=True)
class Cancel:
    """Let go of this run."""

    run_id: str


Order = Assignment | Attach | Submit | Cancel


def frame(message: Order | Event) -> bytes:
    """A message as it goes over the wire."""
    body = pickle.dumps(message)
    return LENGTH.pack(len(body)) + body
