"""`serve --ray` as a process of its own, what Ray starts for it, and what may be killed of that."""

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from driver import H200, T400, stand_in
from http_server import LONG, SMALL, Served, command, serving
from http_server import settings as environment
from mcp import Client
from ray_cluster import bare_cluster, processes
from support import PATIENCE

from sdxl_lightning_mcp.cluster.application import Share, share_of
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.settings import Settings

RUNS = "/v1/models/mini/runs"
CPU = {"Alive": True, "Resources": {"CPU": 4.0}}
GPUS = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}
GONE = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
needs_ray = [
    pytest.mark.ray,
    pytest.mark.anyio,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs the extra `ray`"),
]


# --- without Ray -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "ray", "nodes", "share"),
    [
        ("auto", "local", [CPU], Share(1, "auto", 0, 4)),
        ("cpu,cpu", "local", [CPU], Share(2, "cpu", 0, 2)),
        ("auto", "auto", [GPUS, CPU, GPUS, GONE], Share(4, "cuda", 1, 4)),
        ("cuda", "auto", [GPUS], Share(2, "cuda", 1, 4)),
        ("cpu,cpu", "auto", [GPUS, CPU], Share(2, "cpu", 0, 4)),
    ],
)
def test_replicas_get_a_gpu_each_or_their_share_of_the_cores(
    device: str, ray: str, nodes: list[dict[str, Any]], share: Share
) -> None:
    assert share_of(Settings(model="mini", device=device, ray=ray), nodes) == share


@pytest.mark.parametrize(
    ("device", "model", "said"),
    [
        ("cuda:1", "mini", "on a cluster Ray chooses"),
        ("cuda", "mini", "no node of this cluster has a GPU"),
        ("cpu", "auto", "on a cluster say which"),
    ],
)
def test_what_means_this_machine_is_refused_on_a_cluster(
    device: str, model: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        share_of(Settings(model=model, device=device, ray="auto"), [CPU])


def test_without_the_extra_it_is_said_how_it_is_installed(tmp_path: Path) -> None:
    # As where it is not installed: the import fails.
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from sdxl_lightning_mcp.cli import main; main(sys.argv[1:])"
    )
    words = command(tmp_path, "serve", "--ray", "--port", "0")[3:]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 2
    assert "pip install 'sdxl-lightning-mcp[ray]'" in ended.stderr


# --- a server on Ray ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ray")
    options = {"model": "mini", "device": "cpu", "max_queue": 4, "wait_seconds": PATIENCE}
    with serving(folder, "--ray", **options) as server:
        yield server


@pytest.fixture
def client(served: Served) -> httpx2.AsyncClient:
    return served.client()


def parts(served: Served, name: str) -> list[psutil.Process]:
    return processes(psutil.Process(served.process.pid), name)


def kill(served: Served, name: str) -> None:
    (process,) = parts(served, name)
    os.kill(process.pid, signal.SIGKILL)


async def begin(client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    answer = await client.post(RUNS, json={"input": {**SMALL, **wish}})
    assert answer.status_code == 202, answer.text
    return answer.json()


async def until(client: httpx2.AsyncClient, run: dict[str, Any], event: str) -> dict[str, Any]:
    """Follows a run until an event of that name, and returns how it stands."""
    async with client.stream("GET", f"/v1/runs/{run['id']}/events") as stream:
        async for line in stream.aiter_lines():
            if line == f"event: {event}":
                break
    return (await client.get(f"/v1/runs/{run['id']}")).json()


async def there(client: httpx2.AsyncClient, path: str) -> httpx2.Response:
    """Asks until it is answered well, as a patient client does."""
    while True:
        try:
            answer = await client.get(path)
            if answer.status_code < 400:
                return answer
        except httpx2.TransportError:
            pass
        await anyio.sleep(0.2)


class TestServed:
    pytestmark = needs_ray

    async def test_every_face_answers_as_on_one_machine(
        self, served: Served, client: httpx2.AsyncClient
    ) -> None:
        with anyio.fail_after(PATIENCE):
            async with client:
                await there(client, "/readyz")
                run = await client.post(
                    RUNS, json={"input": SMALL}, headers={"Prefer": "wait=60", "X-Request-Id": "me"}
                )
                assert run.status_code == 201, run.text
                assert run.headers["X-Request-Id"] == "me"
                picture = await client.get(run.json()["output"]["outputs"][0]["url"])
                assert picture.content[:2] == b"\xff\xd8"
                wrong = await client.post(RUNS, json={"input": {**SMALL, "width": 1001}})
                assert wrong.status_code == 422
                metrics = (await client.get("/metrics")).text
                assert 'sdxl_device_ready{device="0:cpu"} 1.0' in metrics
            async with Client(f"{served.url}/mcp") as agent:
                result = await agent.call_tool("generate_image", SMALL)
                assert not result.is_error

    async def test_a_client_that_hangs_up_leaves_its_run_alone_and_a_cancel_stops_it(
        self, client: httpx2.AsyncClient
    ) -> None:
        with anyio.fail_after(PATIENCE):
            async with client:
                key = {"Idempotency-Key": "left", "Prefer": "wait=60"}
                with anyio.move_on_after(1):
                    await client.post(RUNS, json={"input": LONG}, headers=key)
                run = (await client.get("/v1/runs?limit=1")).json()["data"][0]
                assert (await until(client, run, "running"))["status_code"] == "running"
                await client.post(f"/v1/runs/{run['id']}/cancel")
                assert (await until(client, run, "done"))["status_code"] == "canceled"
                following = await client.post(
                    RUNS, json={"input": SMALL}, headers={"Prefer": "wait=60"}
                )
                assert following.status_code == 201

    async def test_a_full_queue_is_told_with_the_time_to_come_again(
        self, client: httpx2.AsyncClient
    ) -> None:
        with anyio.fail_after(PATIENCE):
            async with client:
                running = await begin(client, **LONG)
                await until(client, running, "running")
                waiting = [await begin(client, seed=seed) for seed in range(4)]
                full = await client.post(RUNS, json={"input": SMALL})
                assert full.status_code == 429
                assert int(full.headers["Retry-After"]) >= 1
                for run in (running, *waiting):
                    await client.post(f"/v1/runs/{run['id']}/cancel")

    async def test_a_replica_killed_in_mid_run_loses_nothing(
        self, served: Served, client: httpx2.AsyncClient
    ) -> None:
        with anyio.fail_after(PATIENCE):
            async with client:
                running = await begin(client, **LONG)
                waiting = await begin(client)
                await until(client, running, "running")
                kill(served, ":replica")
                ended = await until(client, running, "done")
                assert ended["status_code"] == "succeeded"
                assert ended["notes"][-1] == "The replica died under this run; it was begun anew."
                assert (await until(client, waiting, "done"))["status_code"] == "succeeded"

    async def test_an_ingress_killed_in_mid_run_is_replaced_and_goes_on_with_what_it_accepted(
        self, served: Served, client: httpx2.AsyncClient
    ) -> None:
        with anyio.fail_after(PATIENCE):
            async with client:
                running, waiting = await begin(client, **LONG), await begin(client)
                await until(client, running, "running")
                kill(served, ":ingress")
                for run in (running, waiting):
                    await there(client, f"/v1/runs/{run['id']}")
                    ended = await until(client, run, "done")
                    assert ended["status_code"] == "succeeded"
                    assert ended["input"] == run["input"]
                    assert (
                        "The server ended under this run; the next one drew it." in ended["notes"]
                    )

    async def test_a_killed_proxy_is_replaced_and_no_run_is_lost(
        self, served: Served, client: httpx2.AsyncClient
    ) -> None:
        with anyio.fail_after(PATIENCE):
            async with client:
                run = await begin(client)
                kill(served, "ProxyActor")
                await there(client, "/livez")
                assert (await until(client, run, "done"))["status_code"] == "succeeded"

    def test_only_this_machine_reaches_it_or_who_knows_the_token(self, served: Served) -> None:
        grpc = importlib.import_module("grpc")
        (server,) = [psutil.Process(served.process.pid)]
        others: set[tuple[str, int]] = set()
        for process in (server, *server.children(recursive=True)):
            for one in process.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and "127.0.0.1" not in one.laddr.ip:
                    others.add((process.name(), one.laddr.port))
        # Serve's calls from process to process; Ray leaves no choice of their address.
        assert {name[:15] for name, _ in others} <= {"ray::ServeRepli"}
        for _, port in others:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
                with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                    call(b"", timeout=PATIENCE)


class TestGpus:
    pytestmark = needs_ray

    async def test_each_replica_sees_the_gpu_that_ray_gave_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stand_in(tmp_path / "driver", monkeypatch)
        seen: set[str] = set()
        with serving(tmp_path, "--ray", model="mini", device="cuda:0,cuda:1") as server:
            with anyio.fail_after(PATIENCE):
                async with server.client() as client:
                    while seen != {T400, H200}:
                        # No worker can be made ready: the reason names what it would see.
                        run = await begin(client)
                        ended = await until(client, run, "done")
                        said = ended["failure_message"]
                        seen |= {gpu for gpu in (T400, H200) if f"would see {gpu}" in said}


class TestItsEnd:
    pytestmark = needs_ray

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_nothing_is_left_of_it(self, tmp_path: Path, number: signal.Signals) -> None:
        with serving(tmp_path, "--ray", model="mini", device="cpu") as server:
            # Two of Ray's own notice within a minute that they are alone.
            below = [
                process
                for process in psutil.Process(server.process.pid).children(recursive=True)
                if number is signal.SIGTERM or "Agent" not in process.name()
            ]
            assert len(below) > 5
            code = server.end(number)
        assert code == (0 if number is signal.SIGTERM else -signal.SIGKILL)
        _, alive = psutil.wait_procs(below, timeout=PATIENCE)
        assert not alive


class TestJoining:
    pytestmark = needs_ray

    def test_an_address_that_does_not_answer_or_a_wrong_token_is_told_with_the_cure(
        self, tmp_path: Path
    ) -> None:
        with bare_cluster() as there:
            wrong = {**there.environment, "RAY_AUTH_TOKEN": "0" * 64}
            for address, variables in (
                ("127.0.0.1:9", there.environment),
                (there.address, wrong),
            ):
                ended = subprocess.run(
                    command(tmp_path, "serve", "--ray", address, "--model", "mini"),
                    env={**environment(), **variables},
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
                assert ended.returncode == 2, ended.stderr
                assert f"--ray {address}: the cluster cannot be joined" in ended.stderr

    async def test_a_cluster_that_is_there_serves_by_our_command_and_by_serves_own(
        self, tmp_path: Path
    ) -> None:
        with bare_cluster() as cluster:
            url = f"http://127.0.0.1:{cluster.port}"
            ours = command(tmp_path, "serve", "--ray", cluster.address, "--port", str(cluster.port))
            application = "sdxl_lightning_mcp.cluster.application:app"
            theirs = [sys.executable, "-m", "ray.serve.scripts", "run", application]
            theirs += [f"data_dir={tmp_path}/d"]
            variables = {**environment(model="mini", device="cpu"), **cluster.environment}
            variables["RAY_ADDRESS"] = cluster.address
            for words in (ours, theirs):
                process = subprocess.Popen(words, env=variables)
                try:
                    with anyio.fail_after(PATIENCE):
                        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE) as client:
                            await there(client, "/readyz")
                            run = await client.post(
                                RUNS, json={"input": SMALL}, headers={"Prefer": "wait=60"}
                            )
                            assert run.status_code == 201, run.text
                finally:
                    process.send_signal(signal.SIGINT)
                    process.wait(PATIENCE)
