"""SDXL at its full size, with random weights, on the processor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_full_size_opens_and_draws_and_holds_no_weight_twice(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / "full_size.py", tmp_path / "files"]
    subprocess.run([*command, "--device", "cpu", "--json", figures], check=True)
    found = json.loads(figures.read_text())
    assert found["float32: peak while drawing, GiB"] < 14
    assert found["bfloat16: peak while drawing, GiB"] < 8
    for dtype in ("float32", "bfloat16"):
        assert found[f"{dtype}: peak while opening / weights"] < 1.1
