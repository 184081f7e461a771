"""MCP over HTTP, through the SDK's own client: both eras, and the older transport."""

from typing import Any

import anyio
import httpx2
import pytest
from http_server import LONG, SMALL, Served, make_key, serving
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from support import HELLO, PATIENCE

pytestmark = pytest.mark.anyio

WAYS = pytest.mark.parametrize("way", ["handshake", "stateless", "sse"])


ACCEPT = {"Accept": "application/json, text/event-stream"}


async def begin_session(agent: httpx2.AsyncClient) -> str:
    answer = await agent.post("/mcp", json=HELLO, headers=ACCEPT)
    return answer.headers["mcp-session-id"]


def connect(url: str, way: str) -> Client:
    if way == "sse":
        return Client(sse_client(f"{url}/sse"), mode="legacy")
    return Client(f"{url}/mcp", mode="legacy" if way == "handshake" else "auto")


@WAYS
async def test_an_agent_elsewhere_sees_the_picture_and_gets_a_link_to_the_file(
    served: Served, client: httpx2.AsyncClient, way: str
) -> None:
    told: list[str | None] = []

    async def hear(_: float, __: float | None, message: str | None) -> None:
        told.append(message)

    with anyio.fail_after(PATIENCE):
        async with connect(served.url, way) as agent:
            version = agent.protocol_version
            result = await agent.call_tool("generate_image", SMALL, progress_callback=hear)
    assert version == ("2026-07-28" if way == "stateless" else "2025-11-25")
    assert not result.is_error
    picture, text, link = result.content
    assert picture.type == "image"
    assert any(message and message.startswith("step ") for message in told)
    assert text.text.splitlines()[0] == link.uri
    assert link.uri.startswith(f"{served.url}/v1/runs/")
    file = await client.get(link.uri)
    assert (file.status_code, len(file.content)) == (200, link.size)


@WAYS
async def test_a_call_that_is_given_up_stops_its_run(
    served: Served, client: httpx2.AsyncClient, way: str
) -> None:
    with anyio.fail_after(PATIENCE):
        async with connect(served.url, way) as agent:
            with anyio.CancelScope() as call:

                async def give_up(_: float, __: float | None, message: str | None) -> None:
                    if message == "step 1 of 12":
                        call.cancel()

                await agent.call_tool("generate_image", LONG, progress_callback=give_up)
            assert call.cancelled_caught
            while True:
                (run,) = (await client.get("/v1/runs?limit=1")).json()["data"]
                if run["completed_at"]:
                    break
    assert run["status_code"] == "canceled"


async def test_agents_with_keys_see_their_own_runs(tmp_path: Any) -> None:
    keys = [make_key(tmp_path, name) for name in "ab"]
    with anyio.fail_after(PATIENCE), serving(tmp_path) as server:
        agents = [server.client(headers={"Authorization": f"Bearer {key}"}) for key in keys]
        async with agents[0] as one, agents[1] as two:
            for mode in ("legacy", "auto"):
                first = streamable_http_client(f"{server.url}/mcp", http_client=one)
                second = streamable_http_client(f"{server.url}/mcp", http_client=two)
                async with Client(first, mode=mode) as maker, Client(second, mode=mode) as other:
                    made = await maker.call_tool("generate_image", SMALL)
                    run_id = made.meta["sdxl-lightning-mcp/run"]["id"]
                    again = await maker.call_tool("get_image", {"id": run_id})
                    refused = await other.call_tool("get_image", {"id": run_id})
                    assert (again.is_error or False, refused.is_error) == (False, True)
                    assert "There is no run" in refused.content[0].text
            session = {**ACCEPT, "Mcp-Session-Id": await begin_session(one)}
            ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
            statuses = [
                (await agent.post("/mcp", json=ping, headers=session)).status_code
                for agent in (one, two)
            ]
            assert statuses == [200, 404]
            listed = (await two.get(f"{server.url}/v1/runs")).json()["data"]
            mine = (await one.get(f"{server.url}/v1/runs")).json()["data"]
    assert (len(listed), len(mine)) == (0, 2)


async def test_messages_that_are_too_large_or_of_strange_pages_are_refused(
    client: httpx2.AsyncClient,
) -> None:
    accept = {**ACCEPT, "Content-Type": "application/json"}
    large = await client.post("/mcp", content=b" " * 1_000_001, headers=accept)
    strange = await client.post(
        "/mcp", content=b"{}", headers={**accept, "Origin": "https://evil.example.org"}
    )
    assert (large.status_code, strange.status_code) == (413, 403)
