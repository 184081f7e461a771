"""A worker from the outside: tell it orders, hear its events, end it."""

import logging
import os
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from sdxl_lightning_mcp.run import Event
from sdxl_lightning_mcp.runners.wire import LENGTH, Assignment, Order, frame

log = logging.getLogger(__name__)


class Worker(ABC):
    """Orders in, events out; `log_place` says where the worker tells what it does."""

    log_place = "The log on stderr"

    def __init__(self, orders: ByteSendStream, events: ByteReceiveStream) -> None:
        self._orders = orders
        self._events = BufferedByteReceiveStream(events)

    async def send(self, order: Order) -> None:
        """Tells it something; one that has just died does not hear, and its events end."""
        try:
            await self._orders.send(frame(order))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            log.debug("the worker no longer reads")

    async def events(self) -> AsyncIterator[Event]:
        """What it says, until it has ended."""
        try:
            while True:
                yield await self._hear()
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            await self._fallen_silent()

    async def _hear(self) -> Event:
        (length,) = LENGTH.unpack(await self._events.receive_exactly(LENGTH.size))
        return pickle.loads(await self._events.receive_exactly(length))

    async def _fallen_silent(self) -> None:
        """It says no more; how it ended is known when this returns."""
        return

    @abstractmethod
    async def end(self) -> str:
        """Lets go of it, also of one that has ended; returns how it ended in words."""


# How a runner gets a worker. Raises OSError, or an error of ours that says more.
Start = Callable[[Assignment], Awaitable[Worker]]


def environment(assignment: Assignment) -> dict[str, str]:
    """The environment of the process that has this assignment."""
    found = os.environ.copy()
    if (gpu := assignment.device.accelerator) and gpu.uuid:
        # By its UUID, since CUDA numbers GPUs otherwise than their driver. It sees no other.
        found["CUDA_VISIBLE_DEVICES"] = gpu.uuid
    return found


class WorkerProcess(Worker):
    """A process of this one's own, over its stdin and stdout, from `start` to `end`."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__(process.stdin, process.stdout)
        self._process = process

    @classmethod
    async def start(cls, assignment: Assignment) -> "WorkerProcess":
        """Starts the process and tells it what to serve. Raises OSError where none can start."""
        command = [sys.executable, "-P", "-m", "sdxl_lightning_mcp.runners.worker"]
        # Shielded: a cancellation between the fork and our hold on it would leave an orphan.
        with anyio.CancelScope(shield=True):
            worker = cls(
                await anyio.open_process(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=None,
                    env=environment(assignment),
                )
            )
            await worker.send(assignment)
            return worker
        raise AssertionError("a shielded scope is not left early")

    async def _fallen_silent(self) -> None:
        await self._process.wait()

    async def end(self) -> str:
        """Kills it if it still lives, and returns how it ended in words."""
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()
            await self._process.aclose()
        code = self._process.returncode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"
