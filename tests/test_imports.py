"""What importing brings, and what it does not."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "diffusers", "transformers", "numpy", "mcp", "starlette", "rich"]


def loaded_by(statement: str) -> list[str]:
    program = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return ended.stdout.split()


def test_importing_the_package_brings_nothing_heavy() -> None:
    assert loaded_by("import sdxl_lightning_mcp") == []


def test_the_command_line_and_the_runner_bring_nothing_heavy() -> None:
    assert loaded_by("import sdxl_lightning_mcp.cli, sdxl_lightning_mcp.runners.local") == []


@pytest.mark.parametrize("module", ["sdxl_lightning_mcp.server", "sdxl_lightning_mcp.faces.mcp"])
def test_the_server_brings_no_torch(module: str) -> None:
    assert set(loaded_by(f"import {module}")) <= {"mcp", "starlette", "rich"}
