"""What clients and the registry are given: the MCPB bundle, and server.json."""

import json
import os
import sys
import zipfile
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from node_tools import run, tool
from support import PATIENCE, ROOT, stdio_server

sys.path.insert(0, str(ROOT / "scripts"))

import write_bundle
import write_docs

from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.settings import Settings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle.write(folder / "a.mcpb")
    return folder / "a.mcpb"


@pytest.fixture(scope="module")
def unpacked(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(bundle).extractall(folder)
    return folder


def test_the_manifest_passes_mcpbs_own_validator(unpacked: Path) -> None:
    ended = run(*tool("@anthropic-ai/mcpb"), "validate", unpacked / "manifest.json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "validation passes" in ended.stdout


@pytest.mark.anyio
async def test_the_bundle_has_all_that_the_server_needs_and_asks_only_settings_that_exist(
    unpacked: Path,
) -> None:
    manifest = json.loads((unpacked / "manifest.json").read_text("utf-8"))
    server = manifest["server"]
    answers = {
        f"${{user_config.{name}}}": question["default"]
        for name, question in manifest["user_config"].items()
    }
    environment = {name: answers[value] for name, value in server["mcp_config"]["env"].items()}
    assert load_settings(environment) == Settings()
    # In place of uv, which would fetch the dependencies first, this environment has them.
    assert (unpacked / server["entry_point"]).name == "__main__.py"
    environment |= {"PYTHONPATH": str(unpacked / "src"), "SDXL_LIGHTNING_MODEL": "mini"}
    command = stdio_server(
        "-P",
        "-c",
        "import sys, sdxl_lightning_mcp.cli as cli; print(cli.__file__, file=sys.stderr);"
        "cli.main()",
        command=sys.executable,
        cwd=unpacked,
        **environment,
    )
    with anyio.fail_after(PATIENCE):
        with (unpacked / "stderr").open("w+") as log:
            async with Client(stdio_client(command, log), mode="legacy") as client:
                tools = (await client.list_tools()).tools
            log.seek(0)
            assert str(unpacked) in log.read()
    told = {tool["name"]: tool["description"] for tool in manifest["tools"]}
    assert told == {tool.name: tool.description for tool in tools}


def test_the_bundle_holds_nothing_but_the_project_and_comes_out_the_same(
    bundle: Path, tmp_path: Path
) -> None:
    write_bundle.write(tmp_path / "b.mcpb")
    assert (tmp_path / "b.mcpb").read_bytes() == bundle.read_bytes()
    assert bundle.stat().st_size < 20_000_000
    names = zipfile.ZipFile(bundle).namelist()
    assert "skills/sdxl-lightning/SKILL.md" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_what_the_registry_is_told_passes_its_schema_and_the_readme_names_us_alike() -> None:
    # skillsaw carries the registry's schema; it lints the skill on the way.
    skillsaw = Path(sys.executable).parent / "skillsaw"
    ended = run(skillsaw, "lint", ROOT, HOME=os.environ["HOME"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "mcp-registry" in ended.stdout
    server = json.loads((ROOT / "server.json").read_text("utf-8"))
    assert server["name"] == write_docs.REGISTRY_NAME
    assert f"mcp-name: {server['name']}" in (ROOT / "README.md").read_text("utf-8")
