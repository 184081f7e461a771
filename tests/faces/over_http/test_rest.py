"""The runs API, as an application calls it."""

import base64
import io
import json
import os
from typing import Any

import anyio
import httpx2
import pytest
from http_server import LONG, SMALL, Served
from PIL import Image
from support import PATIENCE

from sdxl_lightning_mcp.image import read_parameters
from sdxl_lightning_mcp.request import Parameters

pytestmark = pytest.mark.anyio

RUNS = "/v1/models/mini/runs"
WAIT = {"Prefer": "wait=120"}


async def make(client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    """A run that has ended."""
    answer = await client.post(RUNS, json={"input": {**SMALL, **wish}}, headers=WAIT)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def begin(client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    """A run that is under way."""
    answer = await client.post(RUNS, json={"input": {**LONG, **wish}})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def events(client: httpx2.AsyncClient, run: dict[str, Any]) -> list[tuple[str, Any]]:
    """What is told of a run until its end."""
    async with client.stream("GET", run["links"]["events"]) as stream:
        return await told(stream)


async def told(stream: httpx2.Response) -> list[tuple[str, Any]]:
    """The events of a stream, until its end."""
    assert stream.headers["content-type"].startswith("text/event-stream")
    return [(event.event, json.loads(event.data)) async for event in httpx2.EventSource(stream)]


async def test_a_run_that_is_waited_for_has_its_picture_and_all_that_made_it(
    client: httpx2.AsyncClient,
) -> None:
    body = {"input": SMALL, "metadata": {"page": 3}, "client_ref": "order-17"}
    answer = await client.post(RUNS, json=body, headers={**WAIT, "X-Request-Id": "abc-1"})
    run = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == run["links"]["self"]
    assert answer.headers["preference-applied"] == "wait=120"
    assert answer.headers["x-request-id"] == run["request_id"] == "abc-1"
    assert run["status_code"] == "succeeded"
    assert (run["metadata"], run["client_ref"]) == ({"page": 3}, "order-17")
    assert (run["input"]["seed"], run["output"]["seed"], run["cost"]) == (7, 7, 0.003)
    assert run["created_at"] < run["started_at"] < run["completed_at"]
    (output,) = run["output"]["outputs"]
    picture = await client.get(output["url"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert len(picture.content) == output["bytes"]
    assert "sandbox" in picture.headers["content-security-policy"]
    assert read_parameters(io.BytesIO(picture.content)) == Parameters(**run["input"])
    assert (await client.get(run["links"]["self"])).json()["completed_at"] == run["completed_at"]


async def test_a_run_is_accepted_at_once_and_followed_step_by_step(
    client: httpx2.AsyncClient,
) -> None:
    with anyio.fail_after(PATIENCE):
        answer = await client.post(RUNS, json={"input": SMALL})
        run = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == run["links"]["self"]
        assert answer.headers["retry-after"] == "1"
        assert run["status_code"] in ("queued", "running")
        found = await events(client, run)
        names = [name for name, _ in found]
        assert names[-1] == "done"
        assert set(names[:-1]) <= {"queued", "running"}
        steps = [data["step"] for name, data in found if name == "running"]
        assert steps == sorted(steps)
        assert found[-1][1]["status_code"] == "succeeded"
        # Of one that has ended only the end is told.
        assert [name for name, _ in await events(client, run)] == ["done"]


async def test_one_request_tells_each_step_and_brings_the_picture(
    client: httpx2.AsyncClient,
) -> None:
    headers = {"Accept": "text/event-stream", "Idempotency-Key": f"events-{os.getpid()}"}
    ends: list[dict[str, Any]] = []
    with anyio.fail_after(PATIENCE):
        for again in (False, True):
            async with client.stream(
                "POST", RUNS, json={"input": SMALL}, headers=headers
            ) as stream:
                assert stream.status_code == 200
                assert ("idempotent-replayed" in stream.headers) is again
                found = await told(stream)
            name, run = found[-1]
            assert (name, run["status_code"]) == ("done", "succeeded")
            assert stream.headers["location"] == run["links"]["self"]
            assert {each for each, _ in found[:-1]} == (set() if again else {"queued", "running"})
            ends.append(run)
        picture = await client.get(ends[0]["links"]["image"])
    assert ends[0]["id"] == ends[1]["id"]
    for run in ends:
        assert base64.b64decode(run["output"]["outputs"][0]["b64_json"]) == picture.content


async def test_whoever_hangs_up_on_a_runs_events_does_not_stop_it(
    client: httpx2.AsyncClient,
) -> None:
    headers = {"Accept": "text/event-stream"}
    with anyio.fail_after(PATIENCE):
        async with client.stream("POST", RUNS, json={"input": SMALL}, headers=headers) as stream:
            location = stream.headers["location"]
        while (run := (await client.get(location)).json())["completed_at"] is None:
            pass
    assert run["status_code"] == "succeeded"


async def test_the_bytedance_name_and_the_hosted_name_are_the_same_model(
    client: httpx2.AsyncClient,
) -> None:
    for model in ("sd-xl-lightning", "bytedance/sd-xl-lightning"):
        answer = await client.post(f"/v1/models/{model}/runs", json={"input": SMALL}, headers=WAIT)
        assert answer.status_code == 201
        assert answer.json()["notes"] == ["This server draws with mini, not SDXL-Lightning."]
    refused = await client.post("/v1/models/other/runs", json={"input": SMALL})
    assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")


async def test_a_picture_can_be_had_smaller_and_in_other_formats(
    client: httpx2.AsyncClient,
) -> None:
    run = await make(client)
    for query, size, kind in (
        ("width=64", (64, 64), "JPEG"),
        ("width=100&format=webp", (100, 100), "WEBP"),
        ("format=png", (512, 512), "PNG"),
        ("width=4000", (512, 512), "JPEG"),
    ):
        answer = await client.get(f"{run['links']['image']}?{query}")
        content = io.BytesIO(answer.content)
        with Image.open(content) as picture:
            assert (picture.size, picture.format) == (size, kind)
            assert answer.headers["content-type"] == f"image/{kind.lower()}"
        assert read_parameters(content).seed == 7
    refused = await client.get(f"{run['links']['image']}?width=0&format=gif")
    assert [error["message"] for error in refused.json()["errors"]] == [
        "width: got '0'; allowed: 16 or more",
        "format: got 'gif'; allowed: jpeg, webp or png",
    ]
    unread = await client.get(f"/v1/runs?limit=x&cursor={'9' * 5}")
    assert "limit: got 'x'; allowed: whole numbers" in unread.json()["detail"]
    assert "cursor: got '99999'; allowed: texts that match ^" in unread.json()["detail"]


async def test_a_waiting_run_and_a_running_run_are_stopped(client: httpx2.AsyncClient) -> None:
    with anyio.fail_after(PATIENCE):
        running, waiting = await begin(client), await begin(client, seed=1)
        assert (await client.get(running["links"]["image"])).status_code == 409
        assert (await client.delete(running["links"]["self"])).json()["code"] == "run_not_done"
        for run in (waiting, running):
            answer = await client.post(run["links"]["cancel"])
            assert answer.json()["status_code"] == "canceled"
            assert answer.json()["failure_code"] == "run_canceled"
            again = (await client.post(run["links"]["cancel"])).json()
            assert again["completed_at"] == answer.json()["completed_at"]
        assert (await events(client, waiting))[-1][1]["status_code"] == "canceled"
        image = await client.get(running["links"]["image"])
        assert (image.status_code, image.json()["code"]) == (409, "run_canceled")
        assert (await make(client))["status_code"] == "succeeded"


async def test_a_batch_is_taken_whole_or_not_at_all(client: httpx2.AsyncClient) -> None:
    path = "/v1/models/mini/batches"
    inputs = [{**SMALL, "seed": seed} for seed in range(3)]
    with anyio.fail_after(PATIENCE):
        answer = await client.post(path, json={"inputs": inputs}, headers=WAIT)
        batch = answer.json()
        assert answer.status_code == 201
        assert [run["output"]["seed"] for run in batch["runs"]] == [0, 1, 2]
        listed = (await client.get(answer.headers["location"])).json()["data"]
        assert [run["id"] for run in listed[::-1]] == [run["id"] for run in batch["runs"]]
        before = (await client.get("/v1/runs?limit=1")).json()["data"][0]["id"]
        wrong = await client.post(path, json={"inputs": [*inputs, {"prompt": "", "width": 1}]})
        assert [error["field"] for error in wrong.json()["errors"]] == [
            "inputs/3/prompt",
            "inputs/3/width",
        ]
        full = await client.post(path, json={"inputs": [SMALL] * 41})
        assert (full.status_code, full.json()["code"]) == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        assert (await client.get("/v1/runs?limit=1")).json()["data"][0]["id"] == before


async def test_runs_are_listed_page_by_page_and_removed_with_their_pictures(
    client: httpx2.AsyncClient,
) -> None:
    runs = [await make(client, seed=seed) for seed in range(3)]
    first = (await client.get("/v1/runs?limit=2")).json()
    second = (await client.get(f"/v1/runs?limit=2&cursor={first['next']}")).json()
    assert [run["id"] for run in first["data"]] == [run["id"] for run in runs[:0:-1]]
    assert second["data"][0]["id"] == runs[0]["id"]
    removed = await client.delete(runs[0]["links"]["self"])
    assert (removed.status_code, removed.content) == (204, b"")
    for link in ("self", "events", "image"):
        answer = await client.get(runs[0]["links"][link])
        assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")


async def test_the_same_key_and_body_make_one_run(client: httpx2.AsyncClient) -> None:
    key = {"Idempotency-Key": f"key-{os.getpid()}"}
    with anyio.fail_after(PATIENCE):
        first = await client.post(RUNS, json={"input": SMALL}, headers={**WAIT, **key})
        again = await client.post(RUNS, json={"input": SMALL}, headers={**WAIT, **key})
        other = await client.post(RUNS, json={"input": LONG}, headers=key)
    assert again.json()["id"] == first.json()["id"]
    assert again.status_code == first.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_key_that_is_being_answered_is_refused_until_it_is(
    client: httpx2.AsyncClient, served: Served
) -> None:
    key = {"Idempotency-Key": f"busy-{os.getpid()}"}
    first: list[httpx2.Response] = []
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                headers = {**WAIT, **key}
                first.append(await client.post(RUNS, json={"input": LONG}, headers=headers))

            tasks.start_soon(ask)
            run: list[dict[str, Any]] = []
            while not run:
                listed = (await client.get("/v1/runs?limit=5")).json()["data"]
                run = [one for one in listed if one["status_code"] in ("queued", "running")]
            answer = await client.post(RUNS, json={"input": LONG}, headers=key)
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
            await client.post(run[0]["links"]["cancel"])
    assert first[0].json()["status_code"] == "canceled"


async def test_usage_sums_what_the_pictures_cost(client: httpx2.AsyncClient) -> None:
    before = (await client.get("/v1/usage")).json()
    await make(client)
    after = (await client.get("/v1/usage")).json()
    assert after["pictures"] == before["pictures"] + 1
    assert after["pixels"] == before["pixels"] + 512 * 512
    assert round(after["cost"] - before["cost"], 6) == 0.003
    assert (await client.get("/v1/usage?since=2999-01-01")).json()["runs"] == 0


BAD_BODIES = [
    (b"{", "application/json", 400, "not_json"),
    (b"\xff{}", "application/json", 400, "not_utf8"),
    (b'{"input": {"prompt": "\\ud800"}}', "application/json", 400, "not_unicode"),
    (b'{"input": {"prompt": "x", "prompt": "y"}}', "application/json", 400, "duplicate_key"),
    (b'{"input": {"prompt": "x", "guidance": NaN}}', "application/json", 400, "not_json"),
    (b"[" * 100_000, "application/json", 400, "too_deep"),
    (b"[]", "application/json", 400, "not_an_object"),
    (b'{"seed": ' + b"9" * 10_000 + b"}", "application/json", 400, "not_json"),
    (b" " * 1_000_001, "application/json", 413, "body_too_large"),
    (b'{"input": {"prompt": "x"}}', "text/plain", 415, "wrong_content_type"),
    (b'{"input": {"prompt": "x"}}', "", 415, "wrong_content_type"),
]


@pytest.mark.parametrize(("body", "kind", "status", "code"), BAD_BODIES)
async def test_a_body_that_is_no_plain_json_object_is_refused(
    client: httpx2.AsyncClient, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = await client.post(RUNS, content=body, headers={"Content-Type": kind} if kind else {})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


BAD_INPUTS = [
    ({"input": {"prompt": ""}}, "input/prompt"),
    ({"input": {"prompt": "x", "width": 1001}}, "input/width"),
    ({"input": {"prompt": "x", "width": "512"}}, "input/width"),
    ({"input": {"prompt": "x", "steps": True}}, "input/steps"),
    ({"input": {"prompt": "x", "steps": 13}}, "input/steps"),
    ({"input": {"prompt": "x", "width": 2048, "height": 2048}}, "input/width x height"),
    ({"input": {"prompt": "x", "colour": "red"}}, "input/colour"),
    ({"input": {"prompt": "x" * 2001}}, "input/prompt"),
    ({"input": {}}, "input/prompt"),
    ({"input": "x"}, "input"),
    ({}, "input"),
    ({"input": SMALL, "inputs": []}, "inputs"),
    ({"input": SMALL, "metadata": "x"}, "metadata"),
    ({"input": SMALL, "client_ref": "x" * 256}, "client_ref"),
    ({"input": SMALL, "callback_url": "https://example.org/"}, "callback_url"),
]


@pytest.mark.parametrize(("body", "field"), BAD_INPUTS)
async def test_a_field_that_cannot_be_met_is_named_with_what_can(
    client: httpx2.AsyncClient, body: dict[str, Any], field: str
) -> None:
    answer = await client.post(RUNS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert error["allowed"] in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/nothing",
        "/v1/runs/..%2f..%2fetc%2fpasswd",
        "/v1/runs/%2e%2e/image",
        "/v1/runs/../../etc/passwd",
        "/v1/runs/01a208df-3887-74b2-9023-ebe1aab71a6b/image/../../x",
        "/v1/models/..%2f..%2fx/llms.txt",
        "/docs/assets/..%2fpage.html",
        "/docs/assets/%2e%2e%2fapp.py",
    ],
)
async def test_an_id_that_is_none_is_not_found(served: Served, path: str) -> None:
    # Written by hand: clients tidy such paths up before they send them.
    host, port = served.url.removeprefix("http://").split(":")
    with anyio.fail_after(PATIENCE):
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await stream.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await stream.receive()
    assert head.split(b" ")[1] == b"404"


async def test_what_is_not_there_and_how_it_is_not_called_is_a_problem_too(
    client: httpx2.AsyncClient,
) -> None:
    for method, path, status, code in (
        ("GET", "/nope", 404, "not_found"),
        ("PUT", "/v1/runs", 405, "method_not_allowed"),
        ("GET", "/v1/runs?limit=0", 422, "invalid_request"),
        ("GET", "/v1/runs?cursor=x", 422, "invalid_request"),
        ("GET", "/v1/usage?since=today", 422, "invalid_request"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_field_of_the_picture_beside_the_input_is_told_where_it_belongs(
    client: httpx2.AsyncClient,
) -> None:
    answer = await client.post(RUNS, json={"prompt": "the sea"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["allowed"] == "it within input"
