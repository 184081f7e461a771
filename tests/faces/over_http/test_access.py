"""Who may call, and what they may see."""

import json
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from http_server import LONG, SMALL, Served, command, make_key, serving, settings
from support import PATIENCE, answering

pytestmark = pytest.mark.anyio

RUNS = "/v1/models/mini/runs"
WAIT = {"Prefer": "wait=120"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def issuer() -> Iterator["Issuer"]:
    found = Issuer()
    with answering(found.server) as found.url:
        yield found


@pytest.fixture(scope="module")
def keyed(folder: Path, issuer: "Issuer") -> Iterator[tuple[Served, str, str]]:
    """A server with two keys that also takes tokens of an issuer."""
    one, two = make_key(folder, "one"), make_key(folder, "two")
    with serving(
        folder,
        model="mini",
        oauth_issuer=issuer.url,
        oauth_scope="draw",
        oauth_audience="https://pictures.example.org",
        runs_per_minute=30,
        max_queue=4,
        queue_share=0.5,
        allowed_hosts="pictures.example.org",
        allowed_origins="https://app.example.org",
        link_minutes=0.0001,
    ) as server:
        yield server, one, two


class Issuer:
    """An OAuth server as far as a resource server sees it: metadata and keys."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told = issuer.metadata() if "well-known" in self.path else issuer.keys()
                content = json.dumps(told).encode()
                self.send_response(200 if "openid" not in self.path else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = ""

    def metadata(self) -> dict[str, Any]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}

    def keys(self) -> dict[str, Any]:
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**key, "kid": "1", "alg": "RS256", "use": "sig"}]}

    def token(self, key: Any = None, **claims: Any) -> str:
        content = {
            "iss": self.url,
            "aud": "https://pictures.example.org",
            "sub": "ada",
            "scope": "read draw",
            "exp": time.time() + 60,
            **claims,
        }
        return jwt.encode(content, key or self.key, "RS256", headers={"kid": "1"})


async def test_without_a_valid_key_nothing_is_told(keyed: tuple[Served, str, str]) -> None:
    server, one, _ = keyed
    async with server.client() as client:
        for path in ("/v1/runs", "/metrics", "/mcp", "/sse", "/v1/models", "/v1/usage"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "key_missing")
            assert "resource_metadata=" in answer.headers["www-authenticate"]
        for token in ("sdxl_00000000_x", one[:-1], one + "x", "nonsense", "a.b.c"):
            answer = await client.get("/v1/runs", headers=bearer(token))
            assert answer.status_code == 401
        assert (await client.get("/v1/runs", headers=bearer(one))).status_code == 200
        for path in ("/livez", "/llms.txt", "/api/openapi.public.json", "/docs/models/mini"):
            assert (await client.get(path)).status_code == 200


async def test_runs_and_pictures_belong_to_the_key_that_made_them(
    keyed: tuple[Served, str, str],
) -> None:
    server, one, two = keyed
    with anyio.fail_after(PATIENCE):
        async with server.client() as client:
            made = await client.post(RUNS, json={"input": SMALL}, headers={**WAIT, **bearer(one)})
            run = made.json()
            for method, link in (
                ("GET", "self"),
                ("GET", "events"),
                ("GET", "image"),
                ("POST", "cancel"),
                ("DELETE", "self"),
            ):
                answer = await client.request(method, run["links"][link], headers=bearer(two))
                assert (answer.status_code, answer.json()["code"]) == (404, "run_not_found")
            mine = (await client.get("/v1/runs", headers=bearer(one))).json()["data"]
            theirs = (await client.get("/v1/runs", headers=bearer(two))).json()["data"]
            assert [each["id"] for each in mine] == [run["id"]]
            assert theirs == []
            assert (await client.get("/v1/usage", headers=bearer(one))).json()["runs"] == 1
            assert (await client.get("/v1/usage", headers=bearer(two))).json()["runs"] == 0


async def test_a_link_is_for_one_picture_and_for_a_time(keyed: tuple[Served, str, str]) -> None:
    server, one, _ = keyed
    with anyio.fail_after(PATIENCE):
        async with server.client() as client:
            made = await client.post(RUNS, json={"input": SMALL}, headers={**WAIT, **bearer(one)})
            run = made.json()
            link = httpx2.URL(run["output"]["outputs"][0]["url"])
            later = link.copy_set_param("expires", str(int(time.time()) + 9999))
            other = str(link).replace(run["id"], "01a208df-3887-74b2-9023-ebe1aab71a6b")
            for forged in (later, other, link.copy_set_param("signature", "0" * 64)):
                answer = await client.get(forged)
                assert (answer.status_code, answer.json()["code"]) == (403, "link_forged")
            while (answer := await client.get(link)).status_code == 200:
                await anyio.lowlevel.checkpoint()  # these links hold for six milliseconds
            assert (answer.status_code, answer.json()["code"]) == (403, "link_expired")
            assert (await client.get(run["links"]["image"])).status_code == 401


async def test_a_key_may_fill_its_share_of_the_queue_and_no_more(
    keyed: tuple[Served, str, str],
) -> None:
    server, one, two = keyed
    with anyio.fail_after(PATIENCE):
        async with server.client(headers=bearer(two)) as client:
            # Two wait, and up to two are with the worker.
            answers = [await client.post(RUNS, json={"input": LONG}) for _ in range(5)]
            assert answers[-1].json()["code"] == "queue_full"
            assert "of one key" in answers[-1].json()["detail"]
            other = await client.post(RUNS, json={"input": SMALL}, headers=bearer(one))
            assert other.status_code == 202
            for answer in answers:
                if answer.is_success:
                    await client.post(answer.json()["links"]["cancel"])


async def test_a_key_may_ask_for_so_many_runs_in_a_minute(keyed: tuple[Served, str, str]) -> None:
    server, _, two = keyed
    with anyio.fail_after(PATIENCE):
        async with server.client(headers=bearer(two)) as client:
            for _ in range(31):
                answer = await client.post(RUNS, json={"input": LONG})
                if answer.is_success:
                    await client.post(answer.json()["links"]["cancel"])
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) >= 1


async def test_tokens_of_the_issuer_for_this_server_are_taken_and_no_others(
    keyed: tuple[Served, str, str], issuer: Issuer
) -> None:
    server, *_ = keyed
    stranger = rsa.generate_private_key(65537, 2048)
    with anyio.fail_after(PATIENCE):
        async with server.client() as client:
            listed = await client.get("/v1/runs", headers=bearer(issuer.token()))
            assert (listed.status_code, listed.json()["data"]) == (200, [])
            for claims, key in (
                ({"aud": "https://elsewhere.example.org"}, None),
                ({"iss": "https://elsewhere.example.org"}, None),
                ({"exp": time.time() - 10}, None),
                ({"scope": "read"}, None),
                ({}, stranger),
            ):
                token = issuer.token(key, **claims)
                answer = await client.get("/v1/runs", headers=bearer(token))
                assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
            unsigned = jwt.encode({"sub": "ada", "iss": issuer.url}, None, "none")
            answer = await client.get("/v1/runs", headers=bearer(unsigned))
            assert answer.status_code == 401
            told = (await client.get("/.well-known/oauth-protected-resource/mcp")).json()
            assert told["authorization_servers"] == [issuer.url]
            assert told["resource"] == "https://pictures.example.org"


async def test_other_hosts_and_other_origins_are_refused(keyed: tuple[Served, str, str]) -> None:
    server, one, _ = keyed
    async with server.client(headers=bearer(one)) as client:
        for headers, status in (
            ({"Host": "evil.example.org"}, 421),
            ({"Host": "localhost.evil.example.org"}, 421),
            ({"Host": "pictures.example.org"}, 200),
            ({"Host": "localhost:1"}, 200),
            ({"Origin": "https://evil.example.org"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "https://app.example.org"}, 200),
            ({"Origin": server.url}, 200),
        ):
            for path in ("/v1/runs", "/llms.txt", "/v1/models"):
                assert (await client.get(path, headers=headers)).status_code == status
        probe = {"Host": "10.1.2.3:8000"}
        assert (await client.get("/livez", headers=probe)).status_code == 200
        asked = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
        allowed = await client.options(RUNS, headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example.org"


async def test_a_key_that_is_revoked_ends_at_once(
    keyed: tuple[Served, str, str], folder: Path
) -> None:
    server, *_ = keyed
    key = make_key(folder, "three")
    key_id = key.split("_")[1]
    async with server.client(headers=bearer(key)) as client:
        assert (await client.get("/v1/runs")).status_code == 200
        ended = subprocess.run(
            command(folder, "keys", "revoke", key_id), capture_output=True, text=True, check=True
        )
        assert f"Key {key_id} of three is revoked" in ended.stdout
        answer = await client.get("/v1/runs")
    assert (answer.status_code, answer.json()["code"]) == (401, "key_revoked")
    listed = subprocess.run(command(folder, "keys", "list"), capture_output=True, text=True)
    assert [line.split()[2] for line in listed.stdout.splitlines()] == ["valid", "valid", "revoked"]
    assert key not in listed.stdout
    wrong = subprocess.run(command(folder, "keys", "revoke", "x"), capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    for path in (folder / "data").iterdir():
        assert key.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--host", "0.0.0.0"), ("keys add", "--allowed-hosts")),
        (("--host", "::"), ("keys add", "--allowed-hosts")),
        (("--host", "0.0.0.0", "--allowed-hosts", "example.org"), ("keys add",)),
        (("--port", "1000000"), ("--port",)),
        (("--public-url", "example.org"), ("--public-url",)),
    ],
)
def test_what_others_could_reach_does_not_start_before_it_is_said_who_may(
    tmp_path: Path, flags: tuple[str, ...], said: tuple[str, ...]
) -> None:
    ended = subprocess.run(
        [*command(tmp_path, "serve"), *flags], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert all(word in ended.stderr for word in said)
    assert "Traceback" not in ended.stderr


async def test_with_a_key_and_a_name_others_may_reach_it(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    with serving(tmp_path, "--host", "0.0.0.0", "--allowed-hosts", "gpu.example.org") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        async with httpx2.AsyncClient(base_url=url, headers=bearer(key)) as client:
            # By this machine's own address, too.
            assert (await client.get("/v1/runs")).status_code == 200
            for name, status in (("gpu.example.org", 200), ("evil.example.org", 421)):
                answer = await client.get("/v1/runs", headers={"Host": name})
                assert answer.status_code == status


def test_a_port_that_is_taken_is_one_line(served: Served, tmp_path: Path) -> None:
    port = served.url.rpartition(":")[2]
    ended = subprocess.run(
        [*command(tmp_path, "serve"), "--port", port],
        env=settings(model="mini"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert f"--port {port}: Address already in use" in ended.stderr
