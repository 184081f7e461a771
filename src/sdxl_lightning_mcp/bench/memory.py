"""The memory of a server and its workers, seen from outside."""

import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psutil

EVERY = 0.1


class Memory:
    """Bytes that a server process and its workers hold; `peak` has the most of each, by name.

    RSS as the operating system counts it; on NVIDIA GPUs what the driver says of these processes.
    Where it does not tell, as in some containers, there is no figure for the GPU.
    """

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        # Looked up once: it means reading about every process of the machine.
        self._workers = server.children()
        self._gpus = _gpus()
        self.peak: dict[str, int] = {}

    @property
    def rss(self) -> int:
        """What server and workers hold now, together."""
        return sum(map(_rss, [self._server, *self._workers]))

    def _look(self) -> None:
        held = {
            "RSS of the server": _rss(self._server),
            "RSS of the worker": sum(map(_rss, self._workers)),
            "GPU, by the driver": self._on_gpus({worker.pid for worker in self._workers}),
        }
        for name, amount in held.items():
            if amount > self.peak.get(name, 0):
                self.peak[name] = amount

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        """Keeps `peak` up to date, some times a second."""

        async def watch() -> None:
            while True:
                self._look()
                await anyio.sleep(EVERY)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            yield
            tasks.cancel_scope.cancel()

    def _on_gpus(self, processes: set[int]) -> int:
        return sum(
            int(process.usedGpuMemory or 0)
            for gpu in self._gpus
            for process in _nvml().nvmlDeviceGetComputeRunningProcesses(gpu)
            if process.pid in processes
        )


def _rss(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _gpus() -> list[Any]:
    """Handles of all NVIDIA GPUs; empty where there is no driver."""
    nvml = _nvml()
    try:
        nvml.nvmlInit()
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []


def _nvml() -> Any:
    # Untyped, and not needed by anyone who does not measure.
    return importlib.import_module("pynvml")
