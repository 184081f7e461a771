"""The recipe of mini, from nothing to a folder that the engine opens, at its smallest scale."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from support import ROOT

from sdxl_lightning_mcp.catalogue import MINI, MINI_FOLDER
from sdxl_lightning_mcp.engine.engine import Engine
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.library import LoadedModel

RECIPE = ROOT / "examples" / "train_mini"


def run(script: str, *arguments: str | Path) -> str:
    ended = subprocess.run(
        [sys.executable, RECIPE / script, *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_recipe_makes_a_model_that_draws(tmp_path: Path) -> None:
    work, folder = tmp_path / "work", tmp_path / "pipeline"
    run("train.py", "all", "--scale", "smoke", "--work", work, "--output", folder)
    files = tuple(
        replace(file, source=folder, bytes=None, sha256=None) for file in MINI.checkpoint.files
    )
    checkpoint = replace(MINI.checkpoint, files=files)
    model = LoadedModel(MINI, Engine(Sdxl.open(checkpoint, FLOAT32_CPU)))
    image = model("a red circle on a blue background", width=256, height=256)
    assert image.save(tmp_path / "a.jpg").exists()
    shipped = {path.name for path in MINI_FOLDER.rglob("*") if path.is_file()}
    assert {path.name for path in folder.rglob("*") if path.is_file()} == shipped
