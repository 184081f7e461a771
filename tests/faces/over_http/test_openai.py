"""OpenAI's images API, through OpenAI's own client."""

import base64
import io
from collections.abc import AsyncIterator

import anyio
import httpx2
import openai
import pytest
from http_server import Served
from PIL import Image
from support import PATIENCE

from sdxl_lightning_mcp.image import read_parameters

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ai(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        yield client


async def test_the_client_lists_the_model_and_gets_pictures_by_link_and_in_the_answer(
    ai: openai.AsyncOpenAI, client: httpx2.AsyncClient
) -> None:
    with anyio.fail_after(PATIENCE):
        (model,) = (await ai.models.list()).data
        linked = await ai.images.generate(
            model=model.id,
            prompt="the sea",
            n=2,
            size="512x512",
            response_format="url",
            quality="hd",
            style="vivid",
            extra_body={"seed": 7, "steps": 2},
        )
        inside = await ai.images.generate(
            prompt="the sea",
            size="512x512",
            response_format="b64_json",
            output_format="png",
            extra_body={"seed": 8, "steps": 2},
        )
    first, second = [(await client.get(image.url)).content for image in linked.data]
    assert [read_parameters(io.BytesIO(each)).seed for each in (first, second)] == [7, 8]
    content = base64.b64decode(inside.data[0].b64_json)
    with Image.open(io.BytesIO(content)) as alone, Image.open(io.BytesIO(second)) as of_two:
        # Picture i of n is the one that its seed makes alone.
        assert (alone.format, alone.tobytes()) == ("PNG", of_two.tobytes())
    assert inside.data[0].seed == 8
    assert "quality and style: nothing here depends on it." in linked.data[0].notes


@pytest.mark.parametrize(
    ("words", "param"),
    [
        ({"size": "1001x512"}, "width"),
        ({"extra_body": {"height": 512}}, "height"),
        ({"size": "big"}, "size"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"response_format": "tiff"}, "response_format"),
        ({"quality": "low"}, "quality"),
        ({"background": "transparent"}, "background"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ],
)
async def test_what_cannot_be_met_is_the_clients_own_error_with_the_field(
    ai: openai.AsyncOpenAI, words: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        await ai.images.generate(prompt="the sea", **words)
    assert raised.value.param == param
    assert raised.value.code == "invalid_request"
    assert "allowed" in raised.value.message


async def test_another_model_is_not_found(ai: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="mini is"):
        await ai.images.generate(model="dall-e-3", prompt="the sea")


async def test_a_client_that_goes_away_takes_its_pictures_with_it(
    ai: openai.AsyncOpenAI, client: httpx2.AsyncClient
) -> None:
    with anyio.fail_after(PATIENCE):
        before = {run["id"] for run in (await client.get("/v1/runs")).json()["data"]}

        async def mine() -> list[dict[str, object]]:
            listed = (await client.get("/v1/runs?limit=4")).json()["data"]
            return [run for run in listed if run["id"] not in before]

        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                await ai.images.generate(
                    prompt="the sea", n=2, size="1536x1536", extra_body={"steps": 12}
                )

            tasks.start_soon(ask)
            while len(await mine()) < 2:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        while {run["status_code"] for run in await mine()} != {"canceled"}:
            await anyio.lowlevel.checkpoint()
