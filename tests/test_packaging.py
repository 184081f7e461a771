"""The wheel: what a person installs."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_small_and_carries_weights_and_skill(wheel: Path) -> None:
    assert wheel.stat().st_size <= 20_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "sdxl_lightning_mcp/mini/unet/diffusion_pytorch_model.safetensors" in names
    assert "sdxl_lightning_mcp/skills/sdxl-lightning/SKILL.md" in names
    assert "sdxl_lightning_mcp/skills/sdxl-lightning/references/prompts.md" in names
    assert {f"sdxl_lightning_mcp/faces/mcp/{name}" for name in ("viewer.html", "icon.png")} < {
        *names
    }
    assert not [name for name in names if "train_mini" in name or name.startswith("tests")]


def test_an_installed_wheel_draws_and_serves_its_skill(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies come from the environment of the tests; only the wheel itself is new.
    others = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "others.pth").write_text(others)
    program = (
        "import sdxl_lightning_mcp, sys; from sdxl_lightning_mcp.faces.discovery import skill;"
        "assert sdxl_lightning_mcp.__file__.startswith(sys.prefix), sdxl_lightning_mcp.__file__;"
        "assert 'generate_image' in skill();"
        "sdxl_lightning_mcp.load('mini')('the sea', width=256, height=256).save('a.jpg')"
    )
    ended = subprocess.run(
        [python, "-c", program],
        cwd=tmp_path,
        env={"HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "a.jpg").exists()
