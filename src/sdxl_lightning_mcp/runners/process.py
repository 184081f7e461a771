"""A worker process from the outside: tell it orders, hear its events, end it."""

import logging
import os
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from sdxl_lightning_mcp.run import Event
from sdxl_lightning_mcp.runners.wire import LENGTH, Assignment, Order, frame

log = logging.getLogger(__name__)


class WorkerProcess:
    """One worker, from `start` to `end`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, assignment: Assignment) -> "WorkerProcess":
        """Starts the process and tells it what to serve. Raises OSError where none can start."""
        environment = os.environ.copy()
        if (gpu := assignment.device.accelerator) and gpu.uuid:
            # By its UUID, since CUDA numbers GPUs otherwise than their driver. It sees no other.
            environment["CUDA_VISIBLE_DEVICES"] = gpu.uuid
        command = [sys.executable, "-P", "-m", "sdxl_lightning_mcp.runners.worker"]
        # Shielded: a cancellation between the fork and our hold on it would leave an orphan.
        with anyio.CancelScope(shield=True):
            worker = cls(
                await anyio.open_process(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=None,
                    env=environment,
                )
            )
            await worker.send(assignment)
            return worker
        raise AssertionError("a shielded scope is not left early")

    async def send(self, order: Order) -> None:
        """Tells it something; one that has just died does not hear, and its events end."""
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send(frame(order))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            log.debug("the worker no longer reads")

    async def events(self) -> AsyncIterator[Event]:
        """What it says, until it has ended."""
        assert self._process.stdout is not None
        stream = BufferedByteReceiveStream(self._process.stdout)
        try:
            while True:
                (length,) = LENGTH.unpack(await stream.receive_exactly(LENGTH.size))
                yield pickle.loads(await stream.receive_exactly(length))
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            await self._process.wait()

    async def end(self) -> str:
        """Kills it if it still lives, and returns how it ended in words."""
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.kill()
            await self._process.aclose()
        code = self._process.returncode or 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"
