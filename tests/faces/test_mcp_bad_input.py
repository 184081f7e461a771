"""What cannot be done, over MCP: said in one reading, with the cure, before any work is begun."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from support import PATIENCE

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.faces import mcp as face
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER_KIND = "the id of a run, as generate_image told it"
A_TEXT = "a text of 1 to 2,000 characters"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, f"prompt: got nothing; allowed: {A_TEXT}"),
    ({"prompt": ""}, f"prompt: got an empty text; allowed: {A_TEXT}"),
    ({"prompt": " \n"}, f"prompt: got an empty text; allowed: {A_TEXT}"),
    (
        {"prompt": "x" * 10_000_000},
        f"prompt: got a text of 10,000,000 characters; allowed: {A_TEXT}",
    ),
    ({"prompt": 7}, f"prompt: got 7; allowed: {A_TEXT}"),
    ({"prompt": None}, f"prompt: got None; allowed: {A_TEXT}"),
    ({"prompt": ["x"]}, f"prompt: got list ['x']; allowed: {A_TEXT}"),
    (
        {"width": 1001},
        "width: got 1001; allowed: multiples of 8, 256 to 2048; nearest: 1000 or 1008",
    ),
    (
        {"width": 100_000, "height": 8},
        "width: got 100000; allowed: multiples of 8, 256 to 2048; "
        "nearest: 2048\nheight: got 8; allowed: multiples of 8, 256 to 2048; nearest: 256",
    ),
    (
        {"width": 2048, "height": 2048},
        "width x height: got 2048x2048, 4,194,304 pixels; "
        "allowed: at most 2,359,296 pixels; nearest: 1536x1536",
    ),
    ({"steps": 0}, "steps: got 0; allowed: whole numbers, 1 to 12; nearest: 1"),
    ({"steps": 1e9}, "steps: got 1000000000.0; allowed: whole numbers, 1 to 12; nearest: 12"),
    ({"steps": "many"}, "steps: got 'many'; allowed: whole numbers, 1 to 12"),
    ({"steps": 2.5}, "steps: got 2.5; allowed: whole numbers, 1 to 12; nearest: 2"),
    ({"guidance": "NaN"}, "guidance: got 'NaN'; allowed: 0 to 10"),
    ({"guidance": "inf"}, "guidance: got 'inf'; allowed: 0 to 10"),
    ({"seed": True}, "seed: got True; allowed: whole numbers, 0 to 4294967295"),
    ({"seed": -1}, "seed: got -1; allowed: whole numbers, 0 to 4294967295; nearest: 0"),
    ({"seed": 10**1000}, "seed: got a number of very many digits; allowed: whole numbers, 0"),
    ({"negative_prompt": {"a": 1}}, "negative_prompt: got dict {'a': 1}; allowed: a text of 0"),
    ({"colour": "red"}, "colour: got an unknown field; allowed: prompt, negative_prompt, seed"),
    ({"num_inference_steps": 4}, "num_inference_steps: got an unknown field; allowed: prompt,"),
    (
        {"with": 512},
        "with: got an unknown field; allowed: prompt, negative_prompt, seed, width, "
        "height, guidance, steps; nearest: width",
    ),
]
REFUSED_IDS: list[tuple[dict[str, Any], str]] = [
    ({}, f"id: got None; allowed: {OTHER_KIND}"),
    ({"id": UNKNOWN}, f"There is no run {UNKNOWN}. Ids are told by generate_image"),
    ({"id": 7}, f"id: got 7; allowed: {OTHER_KIND}"),
    ({"id": ["a"]}, f"id: got ['a']; allowed: {OTHER_KIND}"),
    ({"id": "run_123"}, f"id: got 'run_123'; allowed: {OTHER_KIND}"),
    ({"id": "../../etc/passwd"}, f"id: got '../../etc/passwd'; allowed: {OTHER_KIND}"),
    ({"id": "file:///etc/passwd"}, f"id: got 'file:///etc/passwd'; allowed: {OTHER_KIND}"),
    ({"id": f"{UNKNOWN}/../x"}, f"id: got '{UNKNOWN}/../x'; allowed: {OTHER_KIND}"),
    ({"id": "\x00"}, f"id: got '\\x00'; allowed: {OTHER_KIND}"),
    ({"id": "a" * 1_000_000}, f"id: got a text of 1,000,000 characters; allowed: {OTHER_KIND}"),
    ({"id": UNKNOWN, "ids": []}, "ids: got an unknown field; allowed: id; nearest: id"),
    ({"run": UNKNOWN}, "run: got an unknown field; allowed: id"),
]


@ERAS
async def test_what_cannot_be_drawn_is_refused_and_nothing_is_begun(
    runner: LocalRunner, record: Record, mode: Any
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, record=record), mode=mode) as client:
            for arguments, expected in REFUSED:
                wish = (
                    arguments
                    if "prompt" in arguments or not arguments
                    else {"prompt": "x", **arguments}
                )
                result = await client.call_tool("generate_image", wish)
                assert result.is_error, arguments
                (text,) = result.content
                assert text.text.startswith(expected), text.text
                assert len(text.text) < 300
            status = runner.status()
    assert (status.waiting, status.running, record.latest(1)) == (0, 0, [])


@ERAS
async def test_a_picture_that_is_not_there_is_refused(
    runner: LocalRunner, record: Record, mode: Any
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, record=record), mode=mode) as client:
            for arguments, expected in REFUSED_IDS:
                result = await client.call_tool("get_image", arguments)
                assert result.is_error, arguments
                (text,) = result.content
                assert text.text.startswith(expected), text.text
                assert len(text.text) < 300


@ERAS
async def test_an_unknown_tool_is_refused_with_those_there_are(
    runner: LocalRunner, mode: Any
) -> None:
    async with Client(face.build(runner, MINI, 100_000), mode=mode) as client:
        with pytest.raises(MCPError, match="Unknown tool: draw; there are: generate_image, get"):
            await client.call_tool("draw", {})


async def test_a_record_that_cannot_be_read_is_said(runner: LocalRunner, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "runs.sqlite3").write_text("not a database, but long enough to look like one " * 50)
    broken = Record(Database(folder), Store(tmp_path / "pictures"), "stdio")
    async with Client(face.build(runner, MINI, 100_000, record=broken)) as client:
        result = await client.call_tool("get_image", {"id": UNKNOWN})
        assert result.is_error
        assert result.content[0].text.startswith(f"The record of runs {folder}/runs.sqlite3 cannot")
        with pytest.raises(MCPError, match="cannot be used") as caught:
            await client.read_resource("sdxl-lightning://runs")
    assert caught.value.error.code == -32603
