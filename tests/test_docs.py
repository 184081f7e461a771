"""What the documents say, held against what is so."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
import synthetic
from mcp import Client
from support import PATIENCE, ROOT, stdio_server

sys.path.insert(0, str(ROOT / "scripts"))

import write_docs

README = (ROOT / "README.md").read_text("utf-8")
PLACEHOLDER = "/path/to/sdxl-lightning-mcp"


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [body for found, body in fenced if found == language]


def python(*arguments: str, folder: Path) -> str:
    """What Python prints with these arguments, run in that folder."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def commands() -> list[str]:
    return [line[2:] for block in blocks("console") for line in block.splitlines()]


def tree_of_the_readme() -> set[str]:
    """The paths that README's tree names, relative to the root."""
    (block,) = (b for b in blocks("") if b.startswith("src/"))
    stack: list[str] = []
    paths: set[str] = set()
    for line in block.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], name]
        paths.add("".join(stack))
    return paths


def test_the_tree_names_every_file_of_the_package_and_none_that_is_not_there() -> None:
    package = ROOT / "src" / "sdxl_lightning_mcp"
    files = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*.py")
        if path.name != "__init__.py" or path.parent == package
    }
    named = tree_of_the_readme()
    assert {path for path in named if path.endswith(".py")} == files
    assert all((ROOT / path).exists() for path in named)
    top = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    made = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {path.split("/")[0] for path in named} >= top - made - {"__pycache__"}


def test_the_generated_documents_are_fresh() -> None:
    for path, text in write_docs.documents().items():
        assert path.read_text("utf-8") == text, f"{path.name} is stale: run make docs"


def test_every_link_and_picture_in_the_documents_is_there() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readmes_make_targets_are_there_and_ci_calls_the_one_for_tests() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in (command for command in commands() if command.startswith("make ")):
        assert f"\n{command.split()[1]}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "command",
    [c for c in commands() if c.startswith("sdxl-lightning-mcp generate") and "--model" not in c],
)
def test_the_readmes_generate_commands_run(command: str, tmp_path: Path) -> None:
    printed = python("-m", "sdxl_lightning_mcp", *shlex.split(command)[1:], folder=tmp_path)
    assert Path(json.loads(printed)["path"] if "--json" in command else printed).exists()


@pytest.mark.parametrize("command", [c for c in commands() if "--model" in c])
def test_the_readmes_choices_of_models_are_there(command: str, tmp_path: Path) -> None:
    words = shlex.split(command)
    for name in ("mine", "ink"):
        write = synthetic.write_lora if name == "ink" else synthetic.write_unet
        write(tmp_path / f"{name}.safetensors", seed=1)
    ended = subprocess.run(
        [sys.executable, "-m", "sdxl_lightning_mcp", *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # Understood, and then there is no network here to fetch from.
    assert ended.returncode == 1
    assert "cannot be fetched: http://127.0.0.1:9 cannot be reached" in ended.stderr


@pytest.mark.parametrize(
    "program",
    [
        *(pytest.param(block, id="README") for block in blocks("python")),
        *(
            pytest.param(path.read_text("utf-8"), id=path.name)
            for path in sorted(ROOT.glob("examples/*.py"))
        ),
    ],
)
def test_every_example_runs_and_leaves_a_picture(program: str, tmp_path: Path) -> None:
    python("-c", program, folder=tmp_path)
    assert list(tmp_path.glob("*.jpg"))


def claude_desktop() -> tuple[str, list[str]]:
    (block,) = blocks("json")
    server = json.loads(block)["mcpServers"]["sdxl-lightning"]
    return server["command"], server.get("args", [])


def claude_code() -> tuple[str, list[str]]:
    (command,) = (c for c in commands() if c.startswith("claude mcp add") and " -- " in c)
    program, *flags = shlex.split(command.split(" -- ")[1])
    return program, flags


@pytest.mark.anyio
@pytest.mark.parametrize("block", [claude_desktop, claude_code])
async def test_claudes_command_line_answers_from_an_empty_folder_with_a_minimal_path(
    block, tmp_path: Path
) -> None:
    command, flags = block()
    assert command == f"{PLACEHOLDER}/.venv/bin/sdxl-lightning-mcp"
    # The same script in the environment that the tests run in, which make test puts into .venv.
    installed = Path(sys.executable).parent / Path(command).name
    with anyio.fail_after(PATIENCE):
        server = stdio_server(*flags, command=str(installed), cwd=tmp_path)
        async with Client(server, mode="legacy") as client:
            result = await client.call_tool("generate_image", {"prompt": "the sea", "width": 512})
    assert not result.is_error
    path = Path(result.content[1].text.splitlines()[0])
    assert path.is_relative_to(os.environ["HOME"])
    assert list(tmp_path.iterdir()) == []
