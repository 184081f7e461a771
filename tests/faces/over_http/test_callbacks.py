"""Callbacks: signed, told again until they are heard, and never to where they may not go."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from http_server import SMALL, serving
from standardwebhooks import Webhook
from support import PATIENCE, answering

from sdxl_lightning_mcp.faces.http.callbacks import PublicOnly, is_public

pytestmark = pytest.mark.anyio

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgdGhpcnR5LXR3byBi"
RUNS = "/v1/models/mini/runs"


class Receiver:
    """An application that is told: it does not hear the first time."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message = {"headers": dict(self.headers), "body": body.decode()}
                with receiver.changed:
                    receiver.heard.append(message)
                    receiver.changed.notify_all()
                status = 500 if len(receiver.heard) == 1 else 204
                if self.path == "/elsewhere":
                    status = 302
                self.send_response(status)
                self.send_header("Location", "/hooks")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = ""

    def until(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.heard) >= count, PATIENCE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    with answering(found.server) as address:
        found.url = f"{address}/hooks"
        yield found


async def test_the_end_of_a_run_is_told_signed_and_again_until_it_is_heard(
    tmp_path: Path, receiver: Receiver
) -> None:
    options = {"callback_secret": SECRET, "callback_private": True}
    with anyio.fail_after(PATIENCE), serving(tmp_path, **options) as server:
        async with server.client() as client:
            body = {"input": SMALL, "callback_url": receiver.url, "client_ref": "order-17"}
            run = (await client.post(RUNS, json=body)).json()
            await anyio.to_thread.run_sync(receiver.until, 2)
            second = {**body, "callback_url": receiver.url.replace("hooks", "elsewhere")}
            moved = (await client.post(RUNS, json=second)).json()
            # A redirect is not followed, and is not being heard.
            line = await anyio.to_thread.run_sync(
                server.until, lambda line: "answered 302" in line["message"]
            )
    assert moved["id"] in line["message"]
    first, again = receiver.heard[:2]
    assert first["headers"]["webhook-id"] == again["headers"]["webhook-id"]
    for message in (first, again):
        told = Webhook(SECRET).verify(message["body"], message["headers"])
        assert told["type"] == "run.succeeded"
        assert told["data"]["id"] == run["id"]
        assert told["data"]["client_ref"] == "order-17"
        assert told["data"]["output"]["seed"] == 7


@pytest.mark.slow
async def test_what_is_owed_when_the_server_is_killed_is_told_by_the_next(
    tmp_path: Path, receiver: Receiver
) -> None:
    options = {"callback_secret": SECRET, "callback_private": True}
    with anyio.fail_after(PATIENCE):
        with serving(tmp_path, **options) as server:
            async with server.client() as client:
                body = {"input": SMALL, "callback_url": receiver.url}
                run = (await client.post(RUNS, json=body)).json()
            server.kill()
        with serving(tmp_path, **options):
            await anyio.to_thread.run_sync(receiver.until, 2)
    assert json.loads(receiver.heard[-1]["body"])["data"]["id"] == run["id"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://user:password@example.org/",
        "https://",
        "file:///etc/passwd",
        "https://example.org/" + "x" * 2048,
        7,
    ],
)
async def test_addresses_that_are_plainly_wrong_are_refused_at_once(
    callbacks_on: Any, url: object
) -> None:
    async with callbacks_on.client() as client:
        answer = await client.post(RUNS, json={"input": SMALL, "callback_url": url})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "callback_url"


@pytest.fixture(scope="module")
def callbacks_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("callbacks")
    with serving(folder, model="mini", callback_secret=SECRET) as server:
        yield server


async def test_a_name_that_leads_to_a_private_address_is_not_called(callbacks_on: Any) -> None:
    # A name that looks like any other, and that resolvers take for 127.0.0.1.
    with anyio.fail_after(PATIENCE):
        async with callbacks_on.client() as client:
            body = {"input": SMALL, "callback_url": "https://2130706433:9/"}
            run = (await client.post(RUNS, json=body)).json()
            line = await anyio.to_thread.run_sync(
                callbacks_on.until, lambda line: "not heard" in line["message"]
            )
    assert run["id"] in line["message"]
    assert "is not a public address" in line["message"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_public_addresses_are_told_from_all_others(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_a_number_that_stands_for_a_private_address_is_not_connected_to() -> None:
    for host in ("2130706433", "0x7f000001", "127.1", "localhost"):
        with pytest.raises(OSError, match=r"not a public address|not known"):
            await PublicOnly().connect_tcp(host, 80)
