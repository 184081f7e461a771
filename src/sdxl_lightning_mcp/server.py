"""Composition: settings -> runner and store -> faces."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, closing

import anyio

from sdxl_lightning_mcp.catalogue import CATALOGUE
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.devices import Device, find_devices
from sdxl_lightning_mcp.environment import engine_environment, visible_gpus
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.hardware import accelerators
from sdxl_lightning_mcp.record import SERVE, Record
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.runners.answers import served_model
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.runners.process import Start, WorkerProcess
from sdxl_lightning_mcp.runners.remote import RemoteRunner
from sdxl_lightning_mcp.runners.shared.attaching import Sharing
from sdxl_lightning_mcp.runners.shared.places import meeting_folder
from sdxl_lightning_mcp.selection import select
from sdxl_lightning_mcp.settings import Settings, Speed
from sdxl_lightning_mcp.store import Store


def choose_model(settings: Settings) -> Model:
    """The model that the settings ask for.

    Raises:
        UnknownModelError, WeightsError, SettingsError: As `select`.
    """
    if settings.connect:
        return _model_of_others(settings)
    vae = "tiny" if settings.speed is Speed.DRAFT else settings.vae
    return select(settings.model, settings.lora, vae, settings.device, visible_gpus())


def _model_of_others(settings: Settings) -> Model:
    """The model that the servers serve which draw in this one's place."""
    if settings.model == "auto":
        return served_model(settings.connect, settings.connect_token)
    if settings.model not in CATALOGUE:
        raise SettingsError(
            f"model: with --connect the servers there decide; {settings.model} is not known by its "
            "name alone. Leave --model out."
        )
    return CATALOGUE[settings.model].described


def choose_devices(settings: Settings) -> tuple[Device, ...]:
    """The devices that the settings ask for, with a worker each.

    Raises:
        SettingsError: One of them is not here.
    """
    return find_devices(settings.device, accelerators(visible_gpus()))


def open_record(settings: Settings, command: str) -> Record:
    """The record of the runs of this process, which is `stdio` or `serve`, and of all before it.

    Nothing is opened before it is needed; close it in the end.
    """
    return Record(Database(settings.data_dir), Store(settings.output_dir), command)


def open_runner(
    settings: Settings,
    model: Model,
    devices: Sequence[Device] | None = None,
    record: Record | None = None,
    ended: Callable[[Run], None] | None = None,
    start: Start = WorkerProcess.start,
) -> AbstractAsyncContextManager[Runner]:
    """The runner that the settings ask for, loading in the background once it is entered.

    It runs on all devices that the settings name, or on `devices` only; or on other servers, where
    the settings name those. Its runs are on `record`, where there is one, and `ended` is told each
    that has ended. `start` is where workers come from: processes of its own, unless said.

    Raises:
        SettingsError: A device is not here.
    """
    store = Store(settings.output_dir)
    if settings.connect:
        return RemoteRunner.open(
            settings.connect,
            model,
            store,
            token=settings.connect_token,
            max_queue=settings.max_queue,
            record=record,
            ended=ended,
        )
    return LocalRunner.open(
        model,
        store,
        devices=devices or choose_devices(settings),
        speed=settings.speed,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        idle_seconds=settings.idle_minutes * 60 or None,
        log_level=settings.log_level,
        preview_bytes=settings.preview_bytes,
        start=start,
        record=record,
        ended=ended,
    )


def shared_worker(settings: Settings, *, lasting: bool) -> Start:
    """Where workers come from that this person's servers over stdio share.

    With `lasting` they are started where there are none, and stay for a while; else such are used
    as run already. With the setting `private` they are processes of this one's own.

    Raises:
        SettingsError: Others could reach what is shared.
    """
    # Windows knows neither the sockets nor the locks.
    if settings.private or settings.connect or sys.platform == "win32":
        return WorkerProcess.start
    linger = settings.engine_idle_minutes * 60
    sharing = Sharing(meeting_folder(), engine_environment(), linger)
    return sharing.attach if lasting else sharing.join


async def serve_stdio(settings: Settings, model: Model) -> None:
    """Serves MCP over stdin and stdout until stdin ends; then a worker of its own is gone too."""
    from mcp.server.stdio import stdio_server

    from sdxl_lightning_mcp.faces import mcp

    record = open_record(settings, "stdio")
    # Before stdin is read: a device that is not here is said at once.
    start = shared_worker(settings, lasting=True)
    opening = open_runner(settings, model, record=record, start=start)
    with closing(record):
        async with stdio_server() as (incoming, outgoing), opening as runner:
            server = mcp.build(
                runner, model, settings.preview_bytes, settings.wait_seconds, record=record
            )
            only = settings.protocol == "handshake"
            await mcp.serve(server, incoming, outgoing, handshake_only=only)


async def serve_http(settings: Settings, model: Model) -> None:
    """Serves all HTTP faces until SIGTERM or Ctrl-C; what is left then waits for the next start.

    Raises:
        SettingsError: Others could reach it, and nothing says who may; or the port is taken.
        StorageError: The record cannot be used.
    """
    from sdxl_lightning_mcp.faces.http.parts import Parts
    from sdxl_lightning_mcp.faces.http.serving import Server, listen

    record = open_record(settings, SERVE)

    def open_it(ended: Callable[[Run], None]) -> AbstractAsyncContextManager[Runner]:
        return open_runner(settings, model, record=record, ended=ended)

    with closing(record):
        parts = Parts(settings, model, record)
        await parts.check()
        with listen(settings) as here:
            async with parts.serving(open_it) as (site, app):
                server = Server(app, site)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.drain_when_asked)
                    await server.serve([here])
                    tasks.cancel_scope.cancel()
