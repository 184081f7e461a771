"""Real parts from the world of Node: conformance suite, Inspector, the TypeScript SDK's clients."""

import json
import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from conformance import SMALL, Aliases, served
from mcp import Client
from node_tools import MODULES, NODE, run, tool
from support import ROOT, mini_runner

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.faces import mcp as face
from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

BASELINE = ROOT / "tests" / "conformance.yml"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where our server listens, with the conformance suite's names on it."""
    tool("@modelcontextprotocol/conformance")  # skips before anything is started
    folder = tmp_path_factory.mktemp("served")
    record = Record(Database(folder / "data"), Store(folder / "pictures"), "stdio")
    async with mini_runner(folder / "pictures", record=record) as runner:
        server = face.build(runner, MINI, 100_000, record=record)
        async with Client(server) as client:
            first = await client.call_tool("generate_image", SMALL)
        Aliases(server, first.meta["sdxl-lightning-mcp/run"]["id"]).apply()
        async with served(server) as url:
            yield url
    record.close()


async def run_beside(*command: str, **environment: str) -> Any:
    """Runs a program while the server in this process answers it."""
    return await anyio.to_thread.run_sync(partial(run, *command, **environment))


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_the_official_conformance_suite_finds_nothing_that_the_baseline_does_not_name(
    address: str, tmp_path: Path, revision: str
) -> None:
    suite = tool("@modelcontextprotocol/conformance")
    what = ("--requirements", revision, "--expected-failures", str(BASELINE))
    ended = await run_beside(*suite, "server", "--url", address, *what, "-o", str(tmp_path))
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]


@pytest.mark.parametrize("part", ["directory", "enumeration", "manifest"])
async def test_skills_over_mcp_conform(address: str, part: str) -> None:
    suite = tool("@modelcontextprotocol/conformance")
    what = ("--scenario", f"sep-2640-skills-{part}")
    ended = await run_beside(*suite, "server", "--url", address, *what)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert "SUCCESS" in ended.stdout


async def inspect(*arguments: str) -> Any:
    """What the Inspector's command line makes of it."""
    inspector = tool("@modelcontextprotocol/inspector")
    return await run_beside(*inspector, "--cli", *arguments, HOME=os.environ["HOME"])


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_finds_the_tools_schemas_portable(address: str, era: str) -> None:
    flags = ("--strict", "--format", "json", "--protocol-era", era)
    ended = await inspect(address, "--method", "tools/list", *flags)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    names = [one["name"] for one in json.loads(ended.stdout)["result"]["tools"]]
    assert names == ["generate_image", "get_image"]


async def test_the_inspector_verifies_the_skills_digests(address: str) -> None:
    flags = ("--method", "skills/list", "--verify", "--protocol-era", "modern")
    ended = await inspect(address, *flags)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "skill://sdxl-lightning/SKILL.md" in ended.stdout


async def test_the_inspector_reads_a_picture_to_real_bytes(address: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    flags = ("--method", "resources/read", "--output", str(file), "--output-format", "raw")
    ended = await inspect(address, *flags, "--uri", "test://static-binary")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parameters = read_parameters(file)
    assert (parameters.seed, parameters.width) == (SMALL["seed"], SMALL["width"])


async def test_the_inspector_tells_a_refusal_from_a_picture(address: str) -> None:
    flags = ("--method", "tools/call", "--tool-name", "generate_image", "--tool-args-json")
    drawn = await inspect(address, *flags, json.dumps(SMALL))
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    refused = await inspect(address, *flags, '{"prompt": "x", "colour": "red"}')
    assert refused.returncode == 5
    assert "colour: got an unknown field" in refused.stdout


def with_server(script: str) -> list[str]:
    """The command line of one of the scripts in `node/`, which start the server themselves."""
    tool("@modelcontextprotocol/inspector")  # skips where nothing is installed
    server = (sys.executable, "-m", "sdxl_lightning_mcp")
    return [str(NODE), str(ROOT / "tests" / "node" / script), str(MODULES), *server]


def environment(**more: str) -> dict[str, str]:
    ours = {name: text for name, text in os.environ.items() if name.startswith("SDXL_LIGHTNING_")}
    return {"HOME": os.environ["HOME"], **ours, **more}


@pytest.mark.parametrize(("package", "revision"), [("sdk", None), ("client", "2026-07-28")])
def test_a_client_of_the_typescript_sdk_draws_with_progress_and_cancels(
    package: str, revision: str | None
) -> None:
    node, script, modules, *server = with_server("client.cjs")
    ended = run(node, script, modules, package, *server, **environment())
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    # Version 1 does not tell what was agreed on: it knows the handshake only.
    assert told["version"] == revision
    assert told["kinds"] == ["image", "text", "resource_link"]
    assert "step 4 of 4, encoding" in [progress["message"] for progress in told["progress"]]
    assert "enough" in told["refused"]
    assert told["next"] is False
    assert told["statuses"] == ["succeeded", "canceled", "succeeded"]


def test_the_viewer_shows_a_picture_in_a_host_and_its_buttons_draw_the_next() -> None:
    # So little patience that the first picture, and others, come by way of get_image.
    ended = run(*with_server("viewer.cjs"), **environment(SDXL_LIGHTNING_WAIT_SECONDS="0.3"))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["errors"] == []
    first, variation, again, resized, refused = told["steps"]
    for step in told["steps"]:
        assert step["picture"] == "data:image/jpeg;base64,"
        assert step["tools"] is True
        # What a prompt says is shown as text and never becomes a part of the page.
        assert (step["alt"], step["bold"]) == ("the <b>sea</b>", 0)
    chance = again["facts"].split("seed ")[1].split(",")[0]
    for step, expected in (
        (first, "512x512, seed 4294967295, "),
        (variation, "512x512, seed 0, "),
        (again, "512x512, seed "),
        (resized, f"768x768, seed {chance}, "),
    ):
        assert step["facts"].splitlines()[1].startswith(expected)
        assert step["state"] == ""
        assert step["size"] == step["facts"].splitlines()[1].split(",")[0]
    assert chance not in ("0", "4294967295")
    assert refused["facts"] == resized["facts"]
    assert refused["state"].startswith("prompt: got an empty text; allowed: ")
    # The model is told of what the person drew.
    assert [text.splitlines()[1:] for text in told["told"]] == [
        step["facts"].splitlines() for step in (variation, again, resized)
    ]
