"""What agents and people find before they call: documents that are true, and a form that works."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
from typing import Any

import anyio
import httpx2
import jsonschema
import pytest
from http_server import Served
from support import PATIENCE, ROOT

pytestmark = pytest.mark.anyio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


async def test_llms_txt_names_addresses_that_are_there(client: httpx2.AsyncClient) -> None:
    for path in (
        "/llms.txt",
        "/models/mini/llms.txt",
        "/models/bytedance/sd-xl-lightning/llms.txt",
    ):
        text = (await client.get(path)).text
        assert text.startswith("# ")
        for link in re.findall(r"\]\((http[^)]+)\)", text):
            if link.startswith(str(client.base_url)):
                assert (await client.get(link)).status_code == 200, link
        assert f"{client.base_url}/mcp".replace("//mcp", "/mcp") in text
    assert (await client.get("/models/other/llms.txt")).status_code == 404


async def test_the_index_of_skills_names_the_skill_and_its_hash(client: httpx2.AsyncClient) -> None:
    index = (await client.get("/.well-known/agent-skills/index.json")).json()
    (skill,) = index["skills"]
    text = await client.get(skill["url"])
    assert text.headers["content-type"].startswith("text/markdown")
    assert f"sha256:{hashlib.sha256(text.content).hexdigest()}" == skill["digest"]
    assert text.text == (ROOT / "skills" / "sdxl-lightning" / "SKILL.md").read_text("utf-8")
    assert skill["description"] in text.text
    for beside in re.findall(r"\]\(([^):]+)\)", text.text):
        assert (await client.get(skill["url"].replace("SKILL.md", beside))).status_code == 200
    assert (await client.get(skill["url"] + "/../x")).status_code == 404


async def test_the_openapi_file_is_of_its_version_and_its_examples_work(
    client: httpx2.AsyncClient,
) -> None:
    document = (await client.get("/api/openapi.public.json")).json()
    assert document["openapi"].startswith("3.1")
    bodies: list[tuple[str, Any, Any]] = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["operationId"]
            assert operation["summary"]
            assert "default" in operation["responses"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                bodies += [
                    (path, content["schema"], example["value"])
                    for example in content["examples"].values()
                ]
    assert len(bodies) == 5
    with anyio.fail_after(PATIENCE):
        for path, schema, body in bodies:
            jsonschema.Draft202012Validator(schema).validate(body)
            answer = await client.post(
                path.replace("{model}", "mini"), json=body, headers={"Prefer": "wait=120"}
            )
            assert answer.status_code in (200, 201), answer.text


async def test_the_front_leads_to_the_docs_page_that_carries_no_script_of_its_own(
    client: httpx2.AsyncClient,
) -> None:
    page = await client.get("/", follow_redirects=True)
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for asset in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert (await client.get(asset)).status_code == 200, asset
    assert re.findall(r"<script(?! src)", page.text) == []
    assert "{{" not in page.text
    names = re.findall(r'<(?:input|textarea)[^>]* name="(\w+)"', page.text)
    assert names == [*(await spec_of(client))["properties"]]


async def spec_of(client: httpx2.AsyncClient) -> dict[str, Any]:
    document = (await client.get("/api/openapi.public.json")).json()
    content = document["paths"]["/v1/models/{model}/runs"]["post"]["requestBody"]["content"]
    return content["application/json"]["schema"]["properties"]["input"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")
async def test_a_person_makes_a_picture_with_the_form_in_a_browser(served: Served) -> None:
    playwright = pytest.importorskip("playwright.async_api", reason="needs playwright")
    expect = playwright.expect
    complaints: list[str] = []
    with anyio.fail_after(PATIENCE):
        async with playwright.async_playwright() as tools:
            browser = await tools.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            page = await browser.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(f"{served.url}/docs/models/mini")
            await page.fill("[name=prompt]", "the sea at sunset with a sailboat")
            await page.fill("[name=seed]", "7")
            await page.fill("[name=width]", "512")
            await page.fill("[name=height]", "512")
            await page.click("form button")
            await page.wait_for_selector("#result:not([hidden])", timeout=PATIENCE * 1000)
            # Not `wait_for_function`: it evaluates text, which the page's policy forbids.
            await expect(page.locator("#picture")).to_have_js_property("naturalWidth", 512)
            facts = await page.inner_text("#facts")
            assert facts.startswith("seed 7, 512x512, 4 steps")
            assert await page.get_attribute("#picture", "alt") == (
                "the sea at sunset with a sailboat"
            )
            # What the server refuses is said to the person.
            await page.fill("[name=width]", "2048")
            await page.fill("[name=height]", "2048")
            await page.click("form button")
            await expect(page.locator("#error")).to_contain_text("at most 2,359,296 pixels")
            await browser.close()
    assert [text for text in complaints if "422" not in text] == []


def curls(page: str) -> list[str]:
    """The curl lines of a page, each with what stands behind its backslashes."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    return [line[2:] for line in text.splitlines() if line.startswith("$ curl ")]


PAGES = ("README.md", "docs/http.md", "examples/regions/README.md")


@pytest.mark.parametrize("line", [line for page in PAGES for line in curls(page)])
def test_the_curl_lines_of_the_documents_work(served: Served, line: str) -> None:
    words = shlex.split(re.sub(r"http://127.0.0.1:80[08]0", served.url, line))
    ended = subprocess.run(
        [*words, "--silent", "--show-error", "--fail"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    if "wait=60" in line:
        assert answer["status_code"] == "succeeded"
