"""The skill, by the validator of the format."""

import subprocess
import sys
from pathlib import Path

from support import ROOT

SKILL = ROOT / "skills" / "sdxl-lightning"


def test_the_skill_validates() -> None:
    validator = Path(sys.executable).parent / "agentskills"
    ended = subprocess.run(
        [validator, "validate", SKILL], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_skill_is_short_enough_to_be_read() -> None:
    assert len((SKILL / "SKILL.md").read_text("utf-8").splitlines()) < 200
