"""The server as a client starts it: a process of its own, over stdin and stdout."""

import json
import os
import signal
import sys
from pathlib import Path

import anyio
import psutil
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from mcp import Client
from support import HELLO, INITIALIZED, PATIENCE, say, started, stdio_server

from sdxl_lightning_mcp.image import read_parameters

pytestmark = pytest.mark.anyio

CALL = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "generate_image", "arguments": {"prompt": "the sea", "width": 512}},
}


async def worker_of(process: Process) -> psutil.Process:
    server = psutil.Process(process.pid)
    while not (children := server.children()):
        await anyio.lowlevel.checkpoint()
    return children[0]


async def test_eight_calls_at_once_give_eight_right_pictures(tmp_path: Path) -> None:
    prompts = [f"a red circle number {index}" for index in range(8)]
    paths: dict[str, Path] = {}

    async def draw(client: Client, seed: int, prompt: str) -> None:
        result = await client.call_tool(
            "generate_image", {"prompt": prompt, "seed": seed, "width": 512, "height": 512}
        )
        assert not result.is_error
        paths[prompt] = Path(result.content[1].text.splitlines()[0])

    with anyio.fail_after(PATIENCE):
        parameters = stdio_server("--output-dir", str(tmp_path))
        async with Client(parameters, mode="legacy") as client, anyio.create_task_group() as tasks:
            for seed, prompt in enumerate(prompts):
                tasks.start_soon(draw, client, seed, prompt)
    assert len(set(paths.values())) == 8
    for seed, prompt in enumerate(prompts):
        parameters = read_parameters(paths[prompt])
        assert (parameters.prompt, parameters.seed) == (prompt, seed)


async def test_two_servers_at_once_draw_into_one_folder_and_neither_is_in_the_others_way(
    tmp_path: Path,
) -> None:
    paths: list[Path] = []

    async def draw(seed: int) -> None:
        async with Client(stdio_server("--output-dir", str(tmp_path))) as client:
            wish = {"prompt": "the sea", "seed": seed, "width": 512, "height": 512}
            result = await client.call_tool("generate_image", wish)
        assert not result.is_error
        paths.append(Path(result.content[1].text.splitlines()[0]))
        assert read_parameters(paths[-1]).seed == seed

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for seed in range(2):
                tasks.start_soon(draw, seed)
    assert {*tmp_path.iterdir()} == {*paths}
    assert len(paths) == 2


async def test_the_server_process_draws_without_torch_diffusers_and_transformers(
    tmp_path: Path,
) -> None:
    banned = "torch", "diffusers", "transformers"
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({banned!r}));"
        "from sdxl_lightning_mcp.cli import main; main()"
    )
    server = stdio_server("-c", program, "--output-dir", str(tmp_path), command=sys.executable)
    with anyio.fail_after(PATIENCE):
        async with Client(server) as client:
            result = await client.call_tool("generate_image", {"prompt": "the sea", "width": 512})
    assert not result.is_error


async def test_stdout_carries_json_rpc_and_nothing_else(tmp_path: Path) -> None:
    lines: list[str] = []
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, HELLO, INITIALIZED, CALL)
            assert process.stdout is not None
            text = ""
            async for chunk in TextReceiveStream(process.stdout):
                text += chunk
                lines = text.splitlines()
                if text.endswith("\n") and len(lines) == 2:
                    break
    answers = [json.loads(line) for line in lines]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["isError"] is False
    log = (tmp_path / "stderr").read_text()
    assert "INFO ready: mini on " in log
    assert " succeeded in " in log
    assert "Traceback" not in log


@pytest.mark.parametrize("busy", [False, True])
async def test_when_stdin_ends_the_server_and_its_worker_are_gone(
    tmp_path: Path, busy: bool
) -> None:
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, HELLO, INITIALIZED, *[CALL] * busy)
            worker = await worker_of(process)
            while busy and "ready" not in (tmp_path / "stderr").read_text():
                await anyio.lowlevel.checkpoint()
            assert process.stdin is not None
            await process.stdin.aclose()
            # How soon, make bench measures.
            await process.wait()
            while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                await anyio.lowlevel.checkpoint()


async def test_a_server_that_is_killed_takes_its_worker_along(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, HELLO)
            worker = await worker_of(process)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                await anyio.lowlevel.checkpoint()


async def test_ctrl_c_ends_the_server_and_its_worker(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        async with await started(tmp_path) as process:
            await say(process, HELLO)
            worker = await worker_of(process)
            process.send_signal(signal.SIGINT)
            await process.wait()
            while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                await anyio.lowlevel.checkpoint()


async def test_a_wrong_setting_is_one_line_on_stderr_and_an_exit_code() -> None:
    ended = await anyio.run_process(
        [sys.executable, "-m", "sdxl_lightning_mcp"],
        env={**os.environ, "SDXL_LIGHTNING_MODLE": "mini"},
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == b""
    assert b"Did you mean SDXL_LIGHTNING_MODEL?" in ended.stderr
    assert b"Traceback" not in ended.stderr
