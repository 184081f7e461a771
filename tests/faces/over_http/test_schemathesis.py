"""The OpenAPI file against what the server does, by schemathesis."""

import subprocess
import sys
from pathlib import Path

import pytest
from http_server import Served

SETTINGS = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--phases", "examples,fuzzing", "--max-examples", "3"), id="few"),
        pytest.param(("--max-examples", "50"), id="many", marks=pytest.mark.slow),
    ],
)
def test_the_server_does_what_its_openapi_file_says(
    served: Served, tmp_path: Path, options: tuple[str, ...]
) -> None:
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    ended = subprocess.run(
        [
            *(sys.executable, "-c", program, "--config-file", SETTINGS),
            *("run", f"{served.url}/api/openapi.public.json", "--checks", "all"),
            *("--generation-database", "none", *options),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "No issues found" in ended.stdout
