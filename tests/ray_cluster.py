"""A Ray cluster of this machine, in a process of its own; as a program, what starts it."""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.cluster.application import Share, replicas
from sdxl_lightning_mcp.cluster.serving import started
from sdxl_lightning_mcp.faces.http.serving import listen
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


@dataclass
class Cluster:
    """Where it is, at which port Serve listens, and what one needs to know to join it."""

    process: psutil.Process
    address: str
    port: int
    environment: dict[str, str]

    @asynccontextmanager
    async def runner(self, folder: Path, **options: Any) -> AsyncIterator[Runner]:
        """A runner whose runs the replica carries out; for a process that has joined."""
        from sdxl_lightning_mcp.runners.ray import RayRunner

        serve = importlib.import_module("ray.serve")
        handle = serve.get_app_handle(NAME)
        async with RayRunner.open(handle, Store(folder), **options) as runner:
            yield runner

    def replicas(self) -> list[psutil.Process]:
        return processes(self.process, ":replica")


@contextmanager
def bare_cluster(*words: str) -> Iterator[Cluster]:
    """A cluster on which nothing runs but Serve."""
    with subprocess.Popen(
        [sys.executable, __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        said = json.loads(starter.stdout.readline())
        yield Cluster(psutil.Process(starter.pid), **said)
        starter.stdin.close()


@contextmanager
def joined_cluster() -> Iterator[Cluster]:
    """A cluster with a replica of mini, which this process has joined."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra `ray`")
    with bare_cluster("mini") as cluster, pytest.MonkeyPatch.context() as patch:
        # Before Ray is imported, which reads it then.
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        with warnings.catch_warnings():
            # Its own, of the libraries that it uses.
            warnings.simplefilter("ignore")
            ray = importlib.import_module("ray")
            importlib.import_module("ray.serve")
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()


def main() -> None:
    """Starts it, says where it is, and ends it with stdin."""
    told = os.dup(1)
    os.dup2(2, 1)
    settings = Settings(model="mini", device="cpu", ray=LOCAL)
    with listen(settings.model_copy(update={"port": 0})) as here:
        port = here.getsockname()[1]
    ray = started(settings)
    serve = importlib.import_module("ray.serve")
    serve.start(proxy_location="HeadOnly", http_options={"port": port})
    if sys.argv[1:] == ["mini"]:
        serve.run(replicas(settings, MINI, Share(1, "cpu", 0, 1)), name=NAME, route_prefix=None)
    said = {
        "address": ray.get_runtime_context().gcs_address,
        "port": port,
        "environment": {name: text for name, text in os.environ.items() if name[:4] == "RAY_"},
    }
    os.write(told, f"{json.dumps(said)}\n".encode())
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
