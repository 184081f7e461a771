"""The MCP face, through the SDK's own client."""

import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import anyio
import pytest
from mcp import Client
from PIL import Image
from support import PATIENCE, mini_runner

from sdxl_lightning_mcp.catalogue import CATALOGUE, MINI
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces import mcp as face
from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.request import GenerationRequest, read_request, request_schema, resolve
from sdxl_lightning_mcp.runners.local import LocalRunner

pytestmark = pytest.mark.anyio

SMALL = {"prompt": "a red circle on a blue background", "width": 512, "height": 512, "seed": 7}
ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])


@pytest.fixture(scope="module")
async def runner(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalRunner]:
    """One worker for all tests of this file that need not see it start."""
    async with mini_runner(tmp_path_factory.mktemp("pictures")) as shared:
        yield shared


async def test_generate_image_takes_exactly_the_request(runner: LocalRunner) -> None:
    async with Client(face.build(runner, MINI, 100_000)) as client:
        listed = await client.list_tools()
    tool, wait = listed.tools
    assert (wait.name, wait.title) == ("get_image", "Get image")
    assert wait.annotations is not None
    assert wait.annotations.read_only_hint is True
    assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) < 4000
    assert tool.name == "generate_image"
    assert tool.input_schema == request_schema(MINI)
    assert tool.output_schema is None
    # Claude Code cuts descriptions at 2 kB.
    assert len(tool.description or "") < 2048
    assert tool.title == "Generate image"
    assert tool.annotations is not None
    assert (tool.annotations.read_only_hint, tool.annotations.destructive_hint) == (False, False)
    (icon,) = tool.icons or []
    kind, content = icon.src.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
        assert icon.sizes == [f"{opened.width}x{opened.height}"]


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE)
async def test_every_models_schema_is_flat_and_says_everything_in_few_words(
    runner: LocalRunner, model: Model
) -> None:
    async with Client(face.build(runner, model, 100_000)) as client:
        listed = await client.list_tools()
    assert len(listed.model_dump_json(by_alias=True, exclude_none=True)) < 4000
    schema = listed.tools[0].input_schema
    assert list(schema["properties"]) == list(GenerationRequest.model_fields)
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    assert "anyOf" not in json.dumps(schema)
    for field in schema["properties"].values():
        assert isinstance(field["type"], str)
        assert field["description"].endswith(".")


@ERAS
async def test_an_agent_sees_the_picture_and_the_person_can_open_it(
    runner: LocalRunner, mode: Any
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000), mode=mode) as client:
            result = await client.call_tool(
                "generate_image", {"prompt": "a city at night", "seed": "7"}
            )
    picture, text, link = result.content
    assert not result.is_error
    assert result.structured_content is None
    assert len(result.model_dump_json(by_alias=True)) < 150_000

    shown = base64.b64decode(picture.data)
    assert picture.mime_type == "image/jpeg"
    assert len(shown) <= 100_000
    with Image.open(io.BytesIO(shown)) as opened:
        assert opened.size == (1024, 1024)

    path = Path(unquote(urlparse(link.uri).path))
    facts = result.meta["sdxl-lightning-mcp/run"]
    assert text.text.splitlines() == [
        str(path),
        f"1024x1024, seed 7, steps 4, guidance 0, model mini, {facts['duration_ms'] / 1000:.2f} s",
    ]
    assert link.size == path.stat().st_size
    with Image.open(path) as opened:
        assert (opened.format, opened.size) == ("JPEG", (1024, 1024))
    made_from = read_parameters(path).model_dump()
    assert facts == {
        "id": facts["id"],
        "path": str(path),
        **made_from,
        "notes": [],
        "duration_ms": facts["duration_ms"],
        "status": "succeeded",
    }
    assert (made_from["prompt"], made_from["seed"]) == ("a city at night", 7)


@ERAS
async def test_progress_only_grows_and_tells_every_step(tmp_path: Path, mode: Any) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def listen(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            async with Client(face.build(runner, MINI, 100_000), mode=mode) as client:
                await client.call_tool("generate_image", SMALL, progress_callback=listen)
    amounts = [done for done, _, _ in told]
    assert amounts == sorted(set(amounts))
    assert {total for _, total, _ in told} == {5.0}
    messages = [message for _, _, message in told]
    assert any((message or "").startswith("opening") for message in messages)
    assert "step 4 of 4, encoding" in messages


@pytest.mark.parametrize("prompt", ["a,b," * 500, "\x00" * 2000, '"' * 2000])
async def test_a_result_stays_within_claudes_limit_whatever_the_prompt(
    runner: LocalRunner, prompt: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000)) as client:
            result = await client.call_tool(
                "generate_image",
                {"prompt": prompt, "negative_prompt": prompt, "guidance": 2, "width": 1536},
            )
    assert len(result.model_dump_json(by_alias=True)) < 150_000
    assert result.content[0].type == "image"


@pytest.mark.parametrize("size", [*MINI.sizes, (1536, 1536), (256, 2048)])
async def test_a_result_stays_within_claudes_limit_at_every_size(
    runner: LocalRunner, size: tuple[int, int]
) -> None:
    width, height = size
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000)) as client:
            result = await client.call_tool(
                "generate_image",
                # As some clients send numbers.
                {"prompt": "a city", "width": str(width), "height": f"{height}.0", "steps": "1"},
            )
    assert len(result.model_dump_json(by_alias=True)) < 150_000
    path = Path(result.content[1].text.splitlines()[0])
    with Image.open(path) as opened:
        assert opened.size == size


async def test_the_worker_makes_the_preview_and_a_smaller_one_is_made_where_that_is_wanted(
    tmp_path: Path,
) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path, preview_bytes=50_000) as runner:
            request = {"prompt": "a city at night", "seed": 7}
            run = await runner.submit(*resolve(read_request(request, MINI), MINI))
            await run.finished()
            assert run.image is not None
            assert run.image.shown is not None
            for budget in (50_000, 10_000):
                async with Client(face.build(runner, MINI, budget)) as client:
                    result = await client.call_tool("generate_image", request)
                shown = base64.b64decode(result.content[0].data)
                assert len(shown) <= budget
                # The same picture again, and so the same preview: the one from the worker.
                assert (shown == run.image.shown) == (budget == 50_000)


async def test_notes_are_said(runner: LocalRunner) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000)) as client:
            result = await client.call_tool(
                "generate_image",
                {
                    **SMALL,
                    "negative_prompt": "snow",
                    "steps": 1,
                    "prompt": "a city " + "at night " * 80,
                },
            )
    notes = [line for line in result.content[1].text.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 3
    assert "negative prompt has no effect" in notes[0]
    assert "made for 4 steps; 1 were asked for" in notes[1]
    assert "cut after 75 tokens" in notes[2]


@ERAS
async def test_a_call_that_the_client_gives_up_stops_the_run(tmp_path: Path, mode: Any) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path) as runner:
            async with Client(face.build(runner, MINI, 100_000), mode=mode) as client:
                with anyio.CancelScope() as call:

                    async def give_up(_: float, __: float | None, message: str | None) -> None:
                        if message == "step 1 of 12":
                            call.cancel()

                    await client.call_tool(
                        "generate_image",
                        {"prompt": "x", "steps": 12, "width": 1536, "height": 1024},
                        progress_callback=give_up,
                    )
                assert call.cancelled_caught
                following = await client.call_tool("generate_image", SMALL)
            assert (runner.status().waiting, runner.status().running) == (0, 0)
    assert not following.is_error
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_full_queue_is_a_tool_error(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE):
        async with mini_runner(tmp_path, max_queue=1) as runner:
            async with Client(face.build(runner, MINI, 100_000)) as client:
                results = []

                async def call() -> None:
                    results.append(await client.call_tool("generate_image", SMALL))

                async with anyio.create_task_group() as tasks:
                    for _ in range(2):
                        tasks.start_soon(call)
    assert sorted(bool(result.is_error) for result in results) == [False, True]
    (refused,) = (result for result in results if result.is_error)
    assert "runs are waiting, the most allowed" in refused.content[0].text
