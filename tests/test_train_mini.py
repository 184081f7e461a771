"""The recipe of mini, from nothing to a folder that the engine opens, at its smallest scale."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
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
    little = ("--count", "1", "--steps", "1", "--sizes", "512x512", "--judge-steps", "2")
    told = json.loads(run("evaluate.py", folder, *little))
    assert {"steps", "guidance_3", "seeds", "sizes"} <= told.keys()
    assert told["sizes"].keys() == {"512x512"}
    shipped = {path.name for path in MINI_FOLDER.rglob("*") if path.is_file()}
    assert {path.name for path in folder.rglob("*") if path.is_file()} == shipped


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))


@pytest.mark.usefixtures("recipe")
def test_what_is_taken_out_of_a_place_is_gone_and_nothing_else() -> None:
    import numpy as np
    from dataset import picture_of
    from removal import REMOVABLES, removables_of
    from specs import sample_place

    rng = random.Random(0)
    seen = set()
    for seed in range(400):
        spec = sample_place(rng)
        for thing in removables_of(spec):
            assert not thing.shown(thing.take_from(spec))
            if thing.words in seen:
                continue
            seen.add(thing.words)
            whole, part = (picture_of(s, seed).render(1 / 8) for s in (spec, thing.take_from(spec)))
            assert np.any(whole != part)
    assert seen == {thing.words for thing in REMOVABLES}


@pytest.mark.usefixtures("recipe")
def test_pictures_of_every_size_give_back_their_free_variables() -> None:
    import numpy as np
    import torch
    from coupling import couple, free_variables
    from dataset import SIZE_SHARES, place_picture

    for seed, (width, height) in enumerate(SIZE_SHARES):
        picture = place_picture(seed, (width, height))
        assert picture.render(1 / 8).shape == (height // 8, width // 8, 3)
        noise = couple(
            torch.randn(1, 16, height // 32, width // 32), torch.from_numpy(picture.free)[None]
        )
        assert np.allclose(free_variables(noise)[0], picture.free, atol=2e-3)


@pytest.mark.usefixtures("recipe")
def test_captions_name_what_is_there() -> None:
    from captions import caption
    from specs import ObjectSpec, PlaceSpec

    rng = random.Random(0)
    for _ in range(50):
        assert "gray" in (text := caption(ObjectSpec("cat", "gray", "red"), rng)) or "grey" in text
        assert "rainbow" in caption(PlaceSpec("field", "day", rainbow=True), rng)
        assert "lighthouse" in caption(PlaceSpec("sea", "sunset", lighthouse=True), rng)
