"""`serve` as a process of its own, as people start it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from support import PATIENCE

SMALL = {"prompt": "a red circle on a blue background", "width": 512, "height": 512, "seed": 7}
# So long that a test can act in the middle of it also on a busy machine.
LONG = {"prompt": "the sea", "width": 1536, "height": 1536, "steps": 12}


@dataclass
class Served:
    """A running server: its address, what it logs, line by line, and a key, if it wants one."""

    process: "subprocess.Popen[str]"
    url: str = ""
    key: str | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def listen(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            with self.changed:
                self.lines.append(json.loads(text) if text[:1] == "{" else {"message": text})
                self.changed.notify_all()
        with self.changed:
            self.lines.append({"message": "ended"})
            self.changed.notify_all()

    def until(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits for a line of the log."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(found(line) or line["message"] == "ended" for line in self.lines),
                PATIENCE,
            )
            wanted = [line for line in self.lines if found(line)]
        assert wanted, self.lines
        return wanted[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Asks it to end, and returns its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE)

    def client(self, **options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=PATIENCE, **options)


def command(folder: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        *("-m", "sdxl_lightning_mcp", *words, "--data-dir", f"{folder}/data"),
    ]


def settings(**values: object) -> dict[str, str]:
    """The environment of a server with these settings."""
    said = {f"SDXL_LIGHTNING_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **said}


@contextmanager
def serving(folder: Path, *flags: str, port: int = 0, **values: object) -> Iterator[Served]:
    """A server whose record and pictures are in that folder, until it is left."""
    process = subprocess.Popen(
        [*command(folder, "serve", "--port", str(port)), "--output-dir", f"{folder}/p", *flags],
        env=settings(**values),
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    listener = threading.Thread(target=served.listen)
    listener.start()
    try:
        served.url = served.until(lambda line: line["message"] == "serving")["url"]
        yield served
    finally:
        process.kill()
        process.wait()
        listener.join()
        assert process.stderr is not None
        process.stderr.close()


def make_key(folder: Path, name: str = "test") -> str:
    """A key made by the command line."""
    made = subprocess.run(
        command(folder, "keys", "add", name), capture_output=True, text=True, check=True
    )
    return made.stdout.strip()
