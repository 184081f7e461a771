"""Parts that the tests share: real ones, on the model that ships."""

import os
import tempfile
from pathlib import Path

import pytest
from repositories import write_repositories

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.request import Parameters

# huggingface_hub looks at these when it is imported: no test reads this machine's cache, none
# reaches out of it.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hub-")
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads this machine's settings or writes into a person's pictures."""
    for name in os.environ:
        if name.startswith("SDXL_LIGHTNING_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SDXL_LIGHTNING_MODEL", "mini")
    # What one test starts must not draw for another.
    monkeypatch.setenv("SDXL_LIGHTNING_PRIVATE", "1")
    # On a busy machine a picture may take longer than clients wait.
    monkeypatch.setenv("SDXL_LIGHTNING_WAIT_SECONDS", "120")
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("XDG_PICTURES_DIR", str(home / "Pictures"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))


@pytest.fixture(scope="session")
def mini() -> Sdxl:
    """The shipped weights in float32 on the CPU, opened once."""
    return Sdxl.open(MINI.checkpoint, FLOAT32_CPU)


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small repositories in the formats of SDXL base, SDXL-Lightning and the VAEs."""
    root = tmp_path_factory.mktemp("repositories")
    write_repositories(root)
    return root


@pytest.fixture
def parameters() -> Parameters:
    """A small picture with everything decided."""
    return Parameters(
        model="mini",
        checkpoint=MINI.checkpoint.name,
        prompt="a city skyline at night",
        negative_prompt="",
        seed=7,
        width=512,
        height=512,
        guidance=0.0,
        steps=4,
    )
