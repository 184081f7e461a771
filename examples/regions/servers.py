"""Two regions and the balancer before them, as processes of this machine."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

CONFIGURATION = Path(__file__).with_name("haproxy.cfg")

# Two servers on one machine: with all cores each, their threads would wait for each other's.
HALF_A_MACHINE = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}


@dataclass
class Region:
    """One server, which can be started again on the same record and port."""

    name: str
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """How it is reached past the balancer."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, and does not wait for it."""
        flags = ("--model", "mini", "--port", str(self.port), "--region", self.name)
        places = ("--data-dir", self.folder / "data", "--output-dir", self.folder / "pictures")
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sdxl_lightning_mcp", "serve", *flags, *places],
                env={**os.environ, **HALF_A_MACHINE, "SDXL_LIGHTNING_WAIT_SECONDS": "20"},
                stderr=log,
            )

    def send(self, signal_number: int) -> None:
        """Sends the server a signal; its worker hears nothing of it."""
        assert self.process is not None
        self.process.send_signal(signal_number)

    async def gone(self) -> int:
        """Waits for its end, and returns its exit code."""
        assert self.process is not None
        return await anyio.to_thread.run_sync(self.process.wait)

    def check(self) -> None:
        """Whether it still lives; else what it said last."""
        assert self.process is not None
        if self.process.poll() is not None:
            sys.exit("".join((self.folder / "log").read_text().splitlines(True)[-5:]))


@contextmanager
def standing(haproxy: str) -> Iterator[tuple[str, list[Region]]]:
    """Two regions and the balancer before them, which is reached at the address that is yielded."""
    ports = free_ports(3)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        regions = [
            Region(name, folder / name, port)
            for name, port in zip(("eu", "us"), ports, strict=False)
        ]
        for region in regions:
            region.start()
            stack.callback(end, region)
        places = {region.name.upper(): f"127.0.0.1:{region.port}" for region in regions}
        balancer = subprocess.Popen(
            [haproxy, "-q", "-f", CONFIGURATION],
            env={**os.environ, **places, "BALANCER": f"127.0.0.1:{ports[2]}"},
            stderr=subprocess.DEVNULL,
        )
        stack.callback(balancer.wait)
        stack.callback(balancer.terminate)
        yield f"http://127.0.0.1:{ports[2]}", regions


def end(region: Region) -> None:
    """Ends a region, whatever it is at."""
    assert region.process is not None
    region.process.kill()
    region.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports at which nobody listens."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "x" * count]
        return [each.getsockname()[1] for each in sockets]
