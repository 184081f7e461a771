"""What accelerators there are, asked from a stand-in for NVIDIA's driver."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from driver import H200, T400, stand_in

PROGRAM = """
import json, sys
from sdxl_lightning_mcp.hardware import accelerators
print(json.dumps({
    visible: [found.uuid for found in accelerators(None if visible == "unset" else visible)]
    for visible in sys.argv[1:]
}))
"""


def test_the_gpus_are_those_that_cuda_visible_devices_leaves_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch)
    expected = {
        "unset": [T400, H200],
        "1": [H200],
        "1,0": [H200, T400],
        H200: [H200],
        "0,9,1": [T400],
        "-1": [],
        "": [],
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *expected],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(ended.stdout) == expected
