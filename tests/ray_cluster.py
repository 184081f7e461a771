"""A Ray cluster of this machine with one replica of mini; as a program, what starts it."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.cluster.application import Share, replicas
from sdxl_lightning_mcp.cluster.serving import started
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.settings import LOCAL, Settings
from sdxl_lightning_mcp.store import Store

NAME = "test"


def processes(parent: psutil.Process, name: str) -> list[psutil.Process]:
    """Ray's processes of that name below another."""
    found: list[psutil.Process] = []
    for child in parent.children(recursive=True):
        # One that has just died tells nothing of itself any more.
        with suppress(psutil.NoSuchProcess):
            # Behind the name stands what it is doing, if anything.
            if re.match(rf"ray::.*{name}\b", "".join(child.cmdline()[:1])):
                found.append(child)
    return found


class Cluster:
    """A cluster that another process started, and that this one has joined."""

    def __init__(self, starter: psutil.Process) -> None:
        self._starter = starter

    @asynccontextmanager
    async def runner(self, folder: Path, **options: Any) -> AsyncIterator[Runner]:
        """A runner whose runs the replica carries out."""
        from sdxl_lightning_mcp.runners.ray import RayRunner

        serve = importlib.import_module("ray.serve")
        handle = serve.get_app_handle(NAME)
        async with RayRunner.open(handle, Store(folder), **options) as runner:
            yield runner

    def replicas(self) -> list[psutil.Process]:
        return processes(self._starter, ":replica")


def joined_cluster() -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`")
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        said: dict[str, str] = json.loads(starter.stdout.readline())
        with pytest.MonkeyPatch.context() as patch:
            # Before Ray is imported, which reads it then.
            for name, value in said["environment"].items():
                patch.setenv(name, value)
            with warnings.catch_warnings():
                # Its own, of the libraries that it uses.
                warnings.simplefilter("ignore")
                ray = importlib.import_module("ray")
                importlib.import_module("ray.serve")
            ray.init(address=said["address"], log_to_driver=False)
            yield Cluster(psutil.Process(starter.pid))
            ray.shutdown()
        starter.stdin.close()


def main() -> None:
    """Starts it, says where it is, and ends it with stdin."""
    told = os.dup(1)
    os.dup2(2, 1)
    settings = Settings(model="mini", device="cpu", ray=LOCAL)
    ray = started(settings)
    serve = importlib.import_module("ray.serve")
    serve.start(proxy_location="Disabled")
    serve.run(replicas(settings, MINI, Share(1, "cpu", 0, 1)), name=NAME, route_prefix=None)
    environment = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    where = {"address": ray.get_runtime_context().gcs_address, "environment": environment}
    os.write(told, f"{json.dumps(where)}\n".encode())
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
