"""What can be read and completed over MCP: resources, prompts, the skill."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp.server.lowlevel import Server
from mcp_types import PromptReference, Request, ResourceTemplateReference
from pydantic import TypeAdapter
from support import PATIENCE, ROOT

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.faces import mcp as face
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.request import request_schema
from sdxl_lightning_mcp.runners.local import LocalRunner

pytestmark = pytest.mark.anyio

ERAS = pytest.mark.parametrize("mode", ["legacy", "auto"])
WISH = {"prompt": "the sea", "negative_prompt": "", "width": 512, "height": 768, "seed": 2**32 - 1}
SKILL = ROOT / "skills" / "sdxl-lightning" / "SKILL.md"
SKILL_URI = "skill://sdxl-lightning/SKILL.md"
PROMPTS = ROOT / "skills" / "sdxl-lightning" / "references" / "prompts.md"
PROMPTS_URI = "skill://sdxl-lightning/references/prompts.md"
RUNS = "sdxl-lightning://runs"
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture(scope="module")
def server(runner: LocalRunner, record: Record) -> Server[Any]:
    return face.build(runner, MINI, 100_000, record=record)


@pytest.fixture(scope="module")
async def facts(server: Server[Any]) -> dict[str, Any]:
    """Those of one finished run."""
    with anyio.fail_after(PATIENCE):
        async with Client(server) as client:
            result = await client.call_tool("generate_image", WISH)
    return result.meta["sdxl-lightning-mcp/run"]


async def text_of(client: Client, uri: str) -> str:
    (contents,) = (await client.read_resource(uri)).contents
    return contents.text


@ERAS
async def test_the_spec_the_llms_txt_and_the_skill_can_be_read_and_are_named(
    server: Server[Any], mode: Any
) -> None:
    async with Client(server, mode=mode) as client:
        assert SKILL_URI in (client.instructions or "")
        assert "get_image" in (client.instructions or "")
        # Claude Code cuts instructions at 2 kB.
        assert len(client.instructions or "") < 2048
        listed = (await client.list_resources()).resources
        texts = {one.uri: await text_of(client, one.uri) for one in listed}
        for one in listed:
            (contents,) = (await client.read_resource(one.uri)).contents
            assert contents.mime_type == one.mime_type
    spec = json.loads(texts["sdxl-lightning://models/mini"])
    assert spec["input"] == request_schema(MINI)
    assert spec["checkpoint"]["name"] == MINI.checkpoint.name
    assert texts["sdxl-lightning://llms.txt"] == (ROOT / "llms.txt").read_text("utf-8")
    assert texts[SKILL_URI] == SKILL.read_text("utf-8")
    assert texts[PROMPTS_URI] == PROMPTS.read_text("utf-8")
    assert set(texts) == {
        "sdxl-lightning://models/mini",
        "sdxl-lightning://llms.txt",
        SKILL_URI,
        PROMPTS_URI,
        RUNS,
    }


@ERAS
async def test_a_runs_facts_its_picture_and_the_newest_runs_can_be_read(
    server: Server[Any], facts: dict[str, Any], mode: Any
) -> None:
    async with Client(server, mode=mode) as client:
        templates = (await client.list_resource_templates()).resource_templates
        assert [one.uri_template for one in templates] == [f"{RUNS}/{{id}}", f"{RUNS}/{{id}}/image"]
        assert json.loads(await text_of(client, f"{RUNS}/{facts['id']}")) == facts
        newest = json.loads(await text_of(client, RUNS))
        (picture,) = (await client.read_resource(f"{RUNS}/{facts['id']}/image")).contents
    # What is much the same with every run is said with each alone.
    assert {name: value for name, value in facts.items() if name != "notes"} in newest
    assert picture.mime_type == "image/jpeg"
    assert base64.b64decode(picture.blob) == Path(facts["path"]).read_bytes()


@ERAS
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sdxl-lightning://nothing", "Unknown resource: sdxl-lightning://nothing; there are: "),
        (f"{RUNS}/{UNKNOWN}", f"There is no run {UNKNOWN}"),
        (f"{RUNS}/{UNKNOWN}/image", f"There is no run {UNKNOWN}"),
        (f"{RUNS}/..%2F..%2Fetc%2Fpasswd/image", "id: got '..%2F..%2Fetc%2Fpasswd'; allowed: the"),
        (f"{RUNS}/../../etc/passwd", "id: got '../../etc/passwd'; allowed: the id of a run"),
        (f"{RUNS}/" + "a" * 10_000, "id: got a text of 10,000 characters"),
        ("skill://sdxl-lightning/../../README.md", "Unknown resource"),
        ("file:///etc/passwd", "Unknown resource: file:///etc/passwd"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_what_can(
    server: Server[Any], mode: Any, uri: str, message: str
) -> None:
    async with Client(server, mode=mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.read_resource(uri)
    assert caught.value.error.code == -32602
    assert caught.value.error.data == {"uri": uri}
    assert caught.value.error.message.startswith(message)


async def test_a_run_that_goes_on_has_facts_and_no_picture_yet(
    runner: LocalRunner, record: Record
) -> None:
    with anyio.fail_after(PATIENCE):
        async with Client(face.build(runner, MINI, 100_000, 0, record=record)) as client:
            begun = await client.call_tool("generate_image", {**WISH, "steps": 12})
            run_id = begun.meta["sdxl-lightning-mcp/run"]["id"]
            told = json.loads(await text_of(client, f"{RUNS}/{run_id}"))
            assert told["status"] in ("queued", "running")
            assert told["path"] is None
            assert json.loads(await text_of(client, RUNS))[0]["id"] == run_id
            with pytest.raises(MCPError, match=f"Run {run_id} has no picture yet: "):
                await client.read_resource(f"{RUNS}/{run_id}/image")
        run = runner.find(run_id)
        assert run is not None
        await runner.cancel(run)


@ERAS
async def test_arguments_of_templates_and_prompts_are_completed(
    server: Server[Any], facts: dict[str, Any], mode: Any
) -> None:
    async def complete(ref: Any, name: str, value: str) -> list[str]:
        return (await client.complete(ref, {"name": name, "value": value})).completion.values

    async with Client(server, mode=mode) as client:
        for template in (f"{RUNS}/{{id}}", f"{RUNS}/{{id}}/image"):
            ref: Any = ResourceTemplateReference(uri=template)
            assert facts["id"] in await complete(ref, "id", "")
            assert await complete(ref, "id", facts["id"][:30]) == [facts["id"]]
            assert await complete(ref, "id", "zz") == []
        assert facts["id"] in await complete(PromptReference(name="variations"), "run", "0")
        assert await complete(PromptReference(name="picture"), "style", "Oil") == ["oil painting"]
        assert await complete(PromptReference(name="picture"), "subject", "a") == []
        with pytest.raises(MCPError, match="Nothing is known of poem"):
            await complete(PromptReference(name="poem"), "a", "")


@ERAS
async def test_prompts_say_how_to_ask_and_with_which_values(
    server: Server[Any], facts: dict[str, Any], mode: Any
) -> None:
    async def text(name: str, **arguments: str) -> str:
        (message,) = (await client.get_prompt(name, arguments)).messages
        return message.content.text

    async with Client(server, mode=mode) as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert set(prompts) == {"picture", "variations", "series"}
        assert all(prompt.title and prompt.description for prompt in prompts.values())
        picture = await text("picture", subject="a fox", style="ink drawing")
        assert "Draw a picture of: a fox" in picture
        assert "in the style: ink drawing" in picture
        variations = await text("variations", run=facts["id"], count="2")
        assert f"seed was {2**32 - 1}" in variations
        assert "each of these seeds: 0, 1;" in variations
        kept = json.loads(variations[variations.index("{") : variations.index("}") + 1])
        assert kept == {
            name: facts[name]
            for name in ("prompt", "negative_prompt", "width", "height", "guidance", "steps")
        }
        series = await text("series", scenes="a fox wakes; it runs ;; it sleeps")
        assert "a series of 3 pictures" in series
        assert "2. it runs\n3. it sleeps" in series


@ERAS
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("poem", {}, "Unknown prompt: poem; there are: picture, variations, series"),
        ("picture", {}, "picture: subject is needed"),
        ("picture", {"subject": " "}, "picture: subject is needed"),
        ("picture", {"subject": "a", "colour": "b"}, "picture: colour is unknown"),
        ("variations", {"run": UNKNOWN}, f"There is no run {UNKNOWN}"),
        ("variations", {"run": "../x"}, "id: got '../x'; allowed: the id of a run"),
        ("variations", {"run": UNKNOWN, "count": "99"}, "count: got '99'; allowed: 1 to 8"),
    ],
)
async def test_a_prompt_that_cannot_be_made_says_what_is_missing(
    server: Server[Any], mode: Any, name: str, arguments: dict[str, str], message: str
) -> None:
    async with Client(server, mode=mode) as client:
        with pytest.raises(MCPError) as caught:
            await client.get_prompt(name, arguments)
    assert caught.value.error.code == -32602
    assert caught.value.error.message.startswith(message)


async def test_the_skill_is_enumerated_with_digests_of_what_is_read(server: Server[Any]) -> None:
    async with Client(server) as client:
        assert client.server_capabilities is not None
        extensions = client.server_capabilities.extensions or {}
        assert extensions["io.modelcontextprotocol/skills"] == {"directoryRead": True}
        (skill,) = (await ask(client, "skills/list"))["skills"]
        assert (await ask(client, "skills/get", uri=SKILL_URI))["skill"] == skill
        folder = await ask(client, "resources/directory/read", uri="skill://sdxl-lightning")
        text, prompts = await text_of(client, SKILL_URI), await text_of(client, PROMPTS_URI)
        for method in ("skills/get", "resources/directory/read"):
            with pytest.raises(MCPError, match="skill://other"):
                await ask(client, method, uri="skill://other")
    assert skill["uri"] == SKILL_URI
    assert skill["frontmatter"] == yaml.safe_load(text.split("---\n")[1])
    assert skill["resources"] == [
        {
            "uri": uri,
            "digest": f"sha256:{hashlib.sha256(content.encode()).hexdigest()}",
            "size": len(content.encode()),
        }
        for uri, content in ((SKILL_URI, text), (PROMPTS_URI, prompts))
    ]
    assert folder["resources"] == [
        {"uri": SKILL_URI, "name": "SKILL.md", "mimeType": "text/markdown"},
        {
            "uri": "skill://sdxl-lightning/references",
            "name": "references",
            "mimeType": "inode/directory",
        },
    ]


async def test_the_viewer_is_named_to_hosts_that_show_pages_and_read_by_who_asks(
    server: Server[Any],
) -> None:
    uri = "ui://sdxl-lightning/viewer.html"
    shows = {"mimeTypes": ["text/html;profile=mcp-app"]}
    host = [advertise("io.modelcontextprotocol/ui", shows)]
    async with Client(server) as plain:
        assert uri not in {one.uri for one in (await plain.list_resources()).resources}
        tool, wait = (await plain.list_tools()).tools
        assert tool.meta == {"ui": {"resourceUri": uri}}
        assert wait.meta is None
        (page,) = (await plain.read_resource(uri)).contents
    async with Client(server, extensions=host) as able:
        listed = {one.uri: one for one in (await able.list_resources()).resources}
        assert listed[uri].mime_type == page.mime_type == "text/html;profile=mcp-app"
    assert len(page.text) < 10_000
    assert "http" not in page.text
    assert json.dumps([f"{width}x{height}" for width, height in MINI.sizes]) in page.text


async def ask(client: Client, method: str, **params: Any) -> dict[str, Any]:
    """A request of an extension, which the SDK's client has no method for."""
    request = Request[dict[str, Any], str](method=method, params=params)
    return await client.session.send_request(request, TypeAdapter(dict[str, Any]))
