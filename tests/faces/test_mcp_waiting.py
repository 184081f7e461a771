"""Pictures that outlive the call that asked for them, and those of earlier runs."""

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from support import PATIENCE, mini_runner

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.faces import mcp as face
from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])
SMALL = {"prompt": "the sea", "width": 512, "height": 512, "seed": 7}
LARGE = {"prompt": "the sea", "width": 1536, "height": 1024, "steps": 12}
FACTS = "sdxl-lightning-mcp/run"


@ERAS
async def test_a_call_that_would_take_too_long_answers_with_the_run_and_get_image_waits_on(
    runner: LocalRunner, record: Record, mode: Any
) -> None:
    told: list[str | None] = []

    async def listen(_: float, __: float | None, message: str | None) -> None:
        told.append(message)

    with anyio.fail_after(PATIENCE):
        impatient = face.build(runner, MINI, 100_000, 0, record=record)
        async with Client(impatient, mode=mode) as client:
            result = await client.call_tool("generate_image", {**SMALL, "negative_prompt": "x"})
            assert not result.is_error
            (text,) = result.content
            facts = result.meta[FACTS]
            assert facts["status"] == "queued"
            first, note = text.text.splitlines()
            assert first == (
                f"Not finished yet: {facts['message']}. "
                f"Call get_image with id {facts['id']} to wait for the picture."
            )
            assert note.startswith("Note: The negative prompt has no effect")
            again = await client.call_tool("get_image", {"id": facts["id"]})
            assert again.content[0].text.startswith("Not finished yet: ")
        patient = face.build(runner, MINI, 100_000, PATIENCE, record=record)
        async with Client(patient, mode=mode) as client:
            for _ in range(2):  # from the run itself, then from the record
                result = await client.call_tool(
                    "get_image", {"id": facts["id"].upper()}, progress_callback=listen
                )
                picture, text, link = result.content
                assert picture.type == "image"
                path = Path(text.text.splitlines()[0])
                assert read_parameters(path).seed == 7
                assert link.size == path.stat().st_size
                assert result.meta[FACTS]["id"] == facts["id"]
    assert "step 4 of 4, encoding" in told


async def test_giving_up_on_get_image_does_not_stop_the_run(
    runner: LocalRunner, record: Record
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, 0, record=record)) as client:
            begun = await client.call_tool("generate_image", SMALL)
            run = runner.find(begun.meta[FACTS]["id"])
            assert run is not None
        async with Client(face.build(runner, MINI, 100_000, record=record)) as client:
            with anyio.CancelScope() as call:

                async def give_up(_: float, __: float | None, ___: str | None) -> None:
                    call.cancel()

                await client.call_tool("get_image", {"id": run.id}, progress_callback=give_up)
            assert call.cancelled_caught
        await run.finished()
    assert run.path is not None


async def test_a_queued_run_is_told_its_place_and_stops_when_its_call_is_given_up(
    runner: LocalRunner, record: Record
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, record=record)) as client:
            await client.call_tool("generate_image", SMALL)
            with anyio.CancelScope() as call:
                places: list[str | None] = []

                async def give_up(_: float, __: float | None, message: str | None) -> None:
                    places.append(message)
                    if (message or "").endswith("2 ahead"):
                        call.cancel()

                async with anyio.create_task_group() as tasks:
                    for _ in range(4):
                        tasks.start_soon(
                            partial(client.call_tool, progress_callback=give_up),
                            "generate_image",
                            LARGE,
                        )
            assert call.cancelled_caught
            result = await client.call_tool("generate_image", SMALL)
    assert not result.is_error
    assert runner.unended() == []
    assert [run.status for run in record.latest(5)].count("canceled") == 4


@pytest.mark.parametrize("kind", ["canceled", "gone"])
async def test_a_run_without_a_picture_says_why(
    runner: LocalRunner, record: Record, kind: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, record=record)) as client:
            done = await client.call_tool("generate_image", SMALL)
            run_id = done.meta[FACTS]["id"]
            if kind == "gone":
                Path(done.content[1].text.splitlines()[0]).unlink()
            else:
                async with Client(face.build(runner, MINI, 100_000, 0, record=record)) as other:
                    run_id = (await other.call_tool("generate_image", LARGE)).meta[FACTS]["id"]
                run = runner.find(run_id)
                assert run is not None
                await runner.cancel(run)
            result = await client.call_tool("get_image", {"id": run_id})
    assert result.is_error
    expected = {
        "canceled": "The run was canceled",
        "gone": f"The picture of run {run_id} is not at ",
    }
    assert result.content[0].text.startswith(expected[kind])


async def test_another_persons_run_is_as_if_it_were_not_there(
    runner: LocalRunner, record: Record
) -> None:
    with anyio.fail_after(PATIENCE):
        mine = face.build(runner, MINI, 100_000, record=record, owner_of=lambda _: "me")
        theirs = face.build(runner, MINI, 100_000, record=record, owner_of=lambda _: "them")
        async with Client(mine) as me, Client(theirs) as them:
            run_id = (await me.call_tool("generate_image", SMALL)).meta[FACTS]["id"]
            assert not (await me.call_tool("get_image", {"id": run_id})).is_error
            refused = await them.call_tool("get_image", {"id": run_id})
            assert refused.content[0].text.startswith(f"There is no run {run_id}")
            assert run_id in (await me.read_resource("sdxl-lightning://runs")).contents[0].text
            assert (await them.read_resource("sdxl-lightning://runs")).contents[0].text == "[]"


async def test_a_client_elsewhere_gets_an_address_and_no_path(
    runner: LocalRunner, record: Record
) -> None:
    with anyio.fail_after(PATIENCE):
        server = face.build(
            runner, MINI, 100_000, record=record, locate=lambda _, run: f"https://a/{run.id}.jpg"
        )
        async with Client(server) as client:
            result = await client.call_tool("generate_image", SMALL)
    _, text, link = result.content
    facts = result.meta[FACTS]
    assert link.uri == text.text.splitlines()[0] == facts["url"] == f"https://a/{facts['id']}.jpg"
    assert facts["path"] is None


async def test_a_run_of_another_server_is_waited_for_by_its_record(
    runner: LocalRunner, record: Record, tmp_path: Path
) -> None:
    beside = Record(Database(record.database.folder), Store(tmp_path), "stdio")
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, 0, record=record)) as client:
            run_id = (await client.call_tool("generate_image", LARGE)).meta[FACTS]["id"]
        async with mini_runner(tmp_path, record=beside) as other:
            async with Client(face.build(other, MINI, 100_000, 0, record=beside)) as client:
                result = await client.call_tool("get_image", {"id": run_id})
                assert result.content[0].text.startswith("Not finished yet: ")
            async with Client(face.build(other, MINI, 100_000, record=beside)) as client:
                result = await client.call_tool("get_image", {"id": run_id})
    beside.close()
    assert result.content[0].type == "image"
    assert result.meta[FACTS]["id"] == run_id
