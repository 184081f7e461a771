"""MCP over stdin and stdout, line by line and through the SDK's client, in both eras."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from driver import stand_in
from mcp import Client, MCPError
from support import HELLO, INITIALIZED, PATIENCE, say, started, stdio_server

pytestmark = pytest.mark.anyio

ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
PROBE = {"jsonrpc": "2.0", "id": 0, "method": "server/discover", "params": {"_meta": META}}
LARGE = {"prompt": "the sea", "width": 1536, "height": 1024, "steps": 12}


async def answers(process: Process, count: int) -> list[dict[str, Any]]:
    """The next lines of stdout; every one is JSON-RPC."""
    assert process.stdout is not None
    text = ""
    async for chunk in TextReceiveStream(process.stdout):
        text += chunk
        if text.count("\n") == count and text.endswith("\n"):
            break
    found = [json.loads(line) for line in text.splitlines()]
    assert all(answer["jsonrpc"] == "2.0" for answer in found)
    return found


def call(number: int, arguments: dict[str, Any]) -> dict[str, Any]:
    params = {"name": "generate_image", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@ERAS
async def test_each_era_is_spoken_and_a_call_given_up_or_timed_out_stops_its_run(
    tmp_path: Path, mode: Any
) -> None:
    async def stop(_: float, __: float | None, message: str | None) -> None:
        if message == "step 1 of 12":
            scope.cancel()

    with anyio.fail_after(PATIENCE):
        async with Client(stdio_server("--output-dir", str(tmp_path)), mode=mode) as client:
            assert client.protocol_version == {"legacy": "2025-11-25", "auto": "2026-07-28"}[mode]
            with anyio.CancelScope() as scope:
                await client.call_tool("generate_image", LARGE, progress_callback=stop)
            assert scope.cancelled_caught
            with pytest.raises(MCPError, match=r"[Tt]imed out"):
                await client.call_tool("generate_image", LARGE, read_timeout_seconds=0.3)
            done = await client.call_tool("generate_image", {"prompt": "the sea", "width": 512})
            assert not done.is_error
            (runs,) = (await client.read_resource("sdxl-lightning://runs")).contents
    statuses = [run["status"] for run in json.loads(runs.text)]
    assert statuses == ["succeeded", "canceled", "canceled"]
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_client_that_probes_for_the_newer_era_first_can_still_shake_hands(
    tmp_path: Path,
) -> None:
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, PROBE, HELLO)
            found = {answer["id"]: answer for answer in await answers(process, 2)}
            assert "2026-07-28" in found[0]["result"]["supportedVersions"]
            assert found[1]["result"]["serverInfo"]["name"] == "sdxl-lightning-mcp"
            await say(process, INITIALIZED, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
            (listed,) = await answers(process, 1)
            assert len(listed["result"]["tools"]) == 2


async def test_a_connection_of_the_newer_era_stays_in_it(tmp_path: Path) -> None:
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {"_meta": META}}
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, PROBE, listing)
            assert all("result" in answer for answer in await answers(process, 2))
            await say(process, HELLO)
            (refused,) = await answers(process, 1)
    assert refused["error"]["code"] == -32022


async def test_the_newer_era_can_be_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDXL_LIGHTNING_PROTOCOL", "handshake")
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, PROBE, HELLO)
            refused, answered = await answers(process, 2)
    assert refused["error"]["code"] == -32601
    assert answered["result"]["serverInfo"]["name"] == "sdxl-lightning-mcp"


async def test_half_a_line_of_json_and_other_nonsense_harm_nothing(tmp_path: Path) -> None:
    nonsense = (
        b'{"jsonrpc": "2.0", "id": 7, "method": "tools/li\n',
        b"\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"7\n",
        b'{"jsonrpc": "1.0", "id": 8, "method": "ping"}\n',
        b'{"jsonrpc": "2.0", "id": 9, "result": {}}\n',
        b"[" * 100_000 + b"\n",
    )
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            assert process.stdin is not None
            for line in nonsense:
                await process.stdin.send(line)
            await say(process, HELLO, INITIALIZED)
            for line in nonsense:
                await process.stdin.send(line)
            # As no JSON may be, and as some programs write it.
            nan = json.dumps(call(2, {"prompt": "x", "guidance": float("nan")}))
            await process.stdin.send(nan.encode() + b"\n")
            await say(process, call(3, {"prompt": "x" * 10_000_000}))
            found = {answer.get("id"): answer for answer in await answers(process, 3)}
            # What comes in two pieces is one line all the same.
            line = json.dumps({"jsonrpc": "2.0", "id": 4, "method": "ping"}).encode() + b"\n"
            await process.stdin.send(line[:20])
            await process.stdin.send(line[20:])
            assert (await answers(process, 1))[0] == {"jsonrpc": "2.0", "id": 4, "result": {}}
            # The end comes in the middle of a line.
            await process.stdin.send(line[:20])
            await process.stdin.aclose()
            assert await process.wait() == 0
    assert found[2]["result"]["content"][0]["text"].startswith("guidance: got nan; allowed: 0 to")
    assert found[3]["result"]["content"][0]["text"].startswith("prompt: got a text of 10,000,000")
    assert "Traceback" not in (tmp_path / "stderr").read_text()


async def test_what_libraries_print_does_not_reach_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "driver", monkeypatch)
    noisy = "\nimport os\nprint('noise')\nos.write(1, b'noise\\n')\n"
    driver = tmp_path / "driver" / "pynvml.py"
    driver.write_text(driver.read_text() + noisy)
    monkeypatch.setenv("SDXL_LIGHTNING_MODEL", "auto")
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, HELLO, INITIALIZED, call(2, {"prompt": "x", "width": 512}))
            found = await answers(process, 2)
    assert [answer["id"] for answer in found] == [1, 2]
    assert "noise" in (tmp_path / "stderr").read_text()
