"""From the command line to a served cluster: started here or joined, and drained at the end."""

import importlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Mapping
from contextlib import closing
from types import FrameType
from typing import Any

import anyio

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.cluster.application import LOGGING, Share, application, share_of
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.faces.http.parts import Parts
from sdxl_lightning_mcp.faces.http.serving import KEEP_ALIVE_SECONDS, LAST_SECONDS, listen
from sdxl_lightning_mcp.record import SERVE
from sdxl_lightning_mcp.server import choose_devices, open_record
from sdxl_lightning_mcp.settings import LOCAL, Settings

log = logging.getLogger(__name__)

NAME = "sdxl-lightning"
# Of a cluster that is started here.
ENVIRONMENT: Mapping[str, str] = {
    "RAY_AUTH_MODE": "token",
    # A proxy that was killed is missed after a second or two, not after half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "1",
    # All ports of Ray are those of the loopback interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Nothing of Ray starts a cluster of its own, at the end where this one is gone.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # No line of the log is taken for a repetition, none is coloured; a worker is started by fork,
    # of which gRPC would tell.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
}
# Pictures on their way from replicas to the ingress, in bytes.
OBJECT_STORE = 200_000_000


def serve_ray(settings: Settings, model: Model) -> None:
    """Serves all HTTP faces on Ray until SIGTERM or Ctrl-C; what is left waits for the next start.

    Raises:
        SettingsError: Ray is not installed or not reached, or anything that `serve` refuses.
        StorageError: The record cannot be used.
    """
    anyio.run(_check, settings, model)
    if settings.ray == LOCAL or settings.port == 0:
        with listen(settings) as here:
            settings = settings.model_copy(update={"port": here.getsockname()[1]})
    ray = started(settings) if settings.ray == LOCAL else _joined(settings)
    try:
        _serve(ray, settings, model)
    finally:
        ray.shutdown()


def _serve(ray: Any, settings: Settings, model: Model) -> None:
    # First of all: what cannot be had here leaves nothing behind.
    share = share_of(settings, ray.nodes())
    asked = _EndAsked()
    try:
        ingress = _deploy(settings, model, share)
        asked.wait()
        try:
            ingress.drain.remote().result(timeout_s=settings.drain_seconds + LAST_SECONDS)
        except (TimeoutError, ray.exceptions.RayError) as error:
            log.warning("what is under way is left for the next server on this record: %s", error)
    except _AskedAgain:
        log.info("closing at once")
    finally:
        importlib.import_module("ray.serve").delete(NAME)


def _deploy(settings: Settings, model: Model, share: Share) -> Any:
    """Brings the application to where it answers, and returns the ingress's handle.

    Raises:
        SettingsError: It does not come there.
    """
    serve: Any = importlib.import_module("ray.serve")
    host = settings.host.strip("[]")
    address = {"host": host, "port": settings.port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
    serve.start(proxy_location="HeadOnly", http_options=address, logging_config=LOGGING)
    try:
        ingress = serve.run(application(settings, model, share), name=NAME, route_prefix="/")
    except (RuntimeError, serve.exceptions.RayServeException) as error:
        raise SettingsError(f"--ray {settings.ray}: Serve cannot run it: {error}") from None
    _check_address(host, settings.port)
    where = f"[{host}]" if ":" in host else host
    log.info("serving", extra={"fields": {"url": f"http://{where}:{settings.port}"}})
    return ingress


def started(settings: Settings) -> Any:
    """Starts Ray on this machine, for this process alone: with it, it ends."""
    devices = choose_devices(settings)
    found = [one.accelerator for one in devices if one.accelerator]
    gpus = [one.uuid for one in found if one.kind == "cuda"]
    # Ray reads it when it is imported, and so do the processes that it starts.
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Not the one in the home folder, which others on this machine may be able to read.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    ray = _imported()
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, len(devices)),
        num_gpus=len(gpus),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        logging_level=logging.WARNING,
    )
    return ray


def _joined(settings: Settings) -> Any:
    """Joins a cluster that is there already. Raises SettingsError where that cannot be done."""
    ray = _imported()
    host, _, port = (settings.ray or "").rpartition(":")
    try:
        if port.isdigit():
            # Ray itself tries for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=settings.ray, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise SettingsError(
            f"--ray {settings.ray}: the cluster cannot be joined: {error}\n"
            "On its head node, `ray start --head` starts one; `ray status` says what there is."
        ) from None
    return ray


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise SettingsError(
            "--ray: Ray is not installed here: pip install 'sdxl-lightning-mcp[ray]', or in a "
            "checkout .venv/bin/pip install -e '.[ray]'."
        ) from None


async def _check(settings: Settings, model: Model) -> None:
    """Whether the ingress may begin: what it would refuse is said here, and at once."""
    with closing(open_record(settings, SERVE)) as record:
        await Parts(settings, model, record).check()


def _check_address(host: str, port: int) -> None:
    """Where Serve ran on the cluster before, its address is that of then."""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise SettingsError(
            f"--host {host} --port {port}: nothing answers there ({error}). Serve may run on this "
            "cluster already, with another address: give that, or end it by `serve shutdown`."
        ) from None


class _AskedAgain(BaseException):
    """The second signal to end has come."""


class _EndAsked(threading.Event):
    """Set by the first signal to end; the second one raises where the process is."""

    def __init__(self) -> None:
        super().__init__()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.is_set():
            raise _AskedAgain
        self.set()
