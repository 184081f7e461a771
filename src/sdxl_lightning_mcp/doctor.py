"""What is there, what is missing, and the cure: every part of a run, tried for real."""

import os
import platform
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import anyio
import psutil

from sdxl_lightning_mcp.checkpoint import Model, Repository
from sdxl_lightning_mcp.clients import Client, clients
from sdxl_lightning_mcp.devices import Device
from sdxl_lightning_mcp.environment import visible_gpus
from sdxl_lightning_mcp.errors import SdxlLightningError, SettingsError, WeightsError
from sdxl_lightning_mcp.hardware import Accelerator, accelerators
from sdxl_lightning_mcp.hub import gigabytes, is_offline, missing, size, trouble
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.runners.answers import served_model
from sdxl_lightning_mcp.runners.shared.places import Facts, Place, meeting_folder, running
from sdxl_lightning_mcp.selection import on_disk
from sdxl_lightning_mcp.server import choose_devices, choose_model, open_runner, shared_worker
from sdxl_lightning_mcp.settings import Settings
from sdxl_lightning_mcp.store import Store

NEEDED = ("torch", "diffusers", "transformers", "mcp")
LITTLE_DISK = 100e6
HUB_SECONDS = 5.0


async def examine(settings: Settings) -> bool:
    """Prints one line for each thing looked at; returns whether all is well."""
    here: tuple[Callable[[Settings], Awaitable[str]], ...] = (_device, _memory, _model, _engines)
    checks = (_software, *((_servers,) if settings.connect else here), _folder, _picture)
    well = True
    for check in checks:
        name = check.__name__.removeprefix("_")
        try:
            print(f"ok       {name}: {await check(settings)}")
        except SdxlLightningError as error:
            print(f"missing  {name}: {error}")
            well = False
    for client in clients():
        well &= _entered(client)
    return well


def _entered(client: Client) -> bool:
    """Prints whether a client that is here can start the server; False where it would fail."""
    cure = f"sdxl-lightning-mcp install {client.name}"
    try:
        entry = client.current()
    except SettingsError as error:
        print(f"missing  {client.name}: {error} Correct it, then: {cure}")
        return False
    if entry is None:
        print(f"optional {client.name}: it is here and does not know this server yet: {cure}")
        return True
    command = str(entry.get("command"))
    if shutil.which(command) is None or not os.path.isabs(command):
        print(f"missing  {client.name}: it starts {command}, which is not there: {cure}")
        return False
    print(f"ok       {client.name}: it starts {command}, as {client.file} says")
    return True


async def _software(_: Settings) -> str:
    try:
        found = ", ".join(f"{name} {version(name)}" for name in NEEDED)
    except PackageNotFoundError as error:
        raise SdxlLightningError(
            f"{error.name} is not installed. Install sdxl-lightning-mcp again."
        ) from None
    return f"Python {platform.python_version()}, {found}"


async def _servers(settings: Settings) -> str:
    """Asks each of the servers that draw in this one's place."""
    answers: list[str] = []
    well = True
    for url in settings.connect:
        try:
            model = await anyio.to_thread.run_sync(served_model, [url], settings.connect_token)
            answers.append(f"{url} serves {model.title}, weights {model.checkpoint.name}")
        except SettingsError as error:
            answers.append(f"{error}")
            well = False
    if not well:
        raise SdxlLightningError(" ".join(answers))
    return "; ".join(answers)


async def _model(settings: Settings) -> str:
    model = choose_model(settings)
    absent = missing(model.checkpoint.all_files)
    if absent:
        cure = f"sdxl-lightning-mcp pull {model.selector}"
        theirs = [file for file in absent if isinstance(file.source, Repository)]
        if is_offline():
            cure += ", with HF_HUB_OFFLINE unset"
        elif theirs and (why := await anyio.to_thread.run_sync(trouble, theirs[0], HUB_SECONDS)):
            cure += f". It would fail now: {why}"
        raise WeightsError(
            f"{model.title} has {gigabytes(size(absent))} to fetch, at the first picture or by: "
            f"{cure}"
        )
    whole = gigabytes(size(model.checkpoint.all_files))
    others = ", ".join(one.name for one in on_disk(model).checkpoints[1:])
    also = f", and {others}" if others else ""
    return f"{model.title}, weights {model.checkpoint.name} ({whole}){also}"


async def _device(settings: Settings) -> str:
    devices = choose_devices(settings)
    workers = f", with {len(devices)} workers" if len(devices) > 1 else ""
    if settings.device.startswith("cpu"):
        return f"the processor, as asked for{workers}"
    gpus = [one.accelerator for one in devices if one.accelerator]
    if not gpus:
        return "no GPU that the installed torch can use; pictures are computed by the processor"
    others = [one for one in accelerators(visible_gpus()) if one not in gpus]
    unused = f"; not used: {_naming(others)}" if others else ""
    return f"{_naming(gpus)}{workers}{unused}"


async def _memory(settings: Settings) -> str:
    memory = psutil.virtual_memory()
    free = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    try:
        model, devices = choose_model(settings), choose_devices(settings)
        if model.slug in {facts.model for _, facts in _shared_engines(settings)}:
            return f"{free}, with the weights in memory already"
    except SdxlLightningError:
        return free
    # On a GPU the device's own memory counts, which the line above it tells.
    weights = size(model.checkpoint.all_files) * sum(one.accelerator is None for one in devices)
    if memory.available < weights:
        raise SdxlLightningError(
            f"{free}, and the weights of {model.title} take {gigabytes(weights)}. Close what else "
            "uses memory, or choose a smaller model: --model mini."
        )
    return free


def _naming(gpus: Sequence[Accelerator]) -> str:
    return ", ".join(f"{one.name} with {one.memory / 1e9:.0f} GB" for one in gpus)


async def _folder(settings: Settings) -> str:
    store = Store(settings.output_dir)
    folder = store.check()
    free = shutil.disk_usage(folder).free
    few = "; that is little: free some" if free < LITTLE_DISK else ""
    fallback = f" ({store.note})" if store.note else ""
    return f"{folder}, {free / 1e9:.1f} GB free{few}{fallback}"


async def _engines(settings: Settings) -> str:
    """Those that servers over stdio share, and how to end one."""
    found = [
        f"{facts.model} on {facts.device} for {facts.servers} "
        f"server{'s' * (facts.servers != 1)} (log {place.log}; to end it: kill {facts.pid})"
        for place, facts in _shared_engines(settings)
    ]
    if not found and (settings.private or sys.platform == "win32"):
        return "every server over stdio has its own" + ", as asked for" * settings.private
    return "; ".join(found) or "none runs; the first server over stdio starts one"


def _shared_engines(settings: Settings) -> list[tuple[Place, Facts]]:
    if settings.private or sys.platform == "win32":
        return []
    return [*running(meeting_folder())]


async def _picture(settings: Settings) -> str:
    """Makes a small picture on each device, in a worker that verifies the weights by hash."""
    try:
        model = await anyio.to_thread.run_sync(choose_model, settings)
        devices = (Device(),) if settings.connect else choose_devices(settings)
    except SdxlLightningError:
        raise SdxlLightningError("not tried, for want of a model or a device.") from None
    if missing(model.checkpoint.all_files):
        raise WeightsError("not tried, since weights are to be fetched first.")
    drawn: list[str] = []
    failed: list[str] = []
    # Two workers on one device are the same to whoever asks what it can do.
    for device in {one.name: one for one in reversed(devices)}.values():
        name = f"{device.name}: " if len(devices) > 1 else ""
        try:
            drawn.append(name + await _draw(settings, model, device))
        except SdxlLightningError as error:
            failed.append(f"{name}{error}")
    if failed:
        raise SdxlLightningError("; ".join(failed + drawn))
    return "; ".join(drawn)


async def _draw(settings: Settings, model: Model, device: Device) -> str:
    started = anyio.current_time()
    start = shared_worker(settings, lasting=False)
    async with open_runner(settings, model, [device], start=start) as runner:
        request = read_request(
            {"prompt": "a red circle on a blue background", "width": 512, "height": 512, "seed": 0},
            model,
        )
        run = await runner.submit(*resolve(request, on_disk(model)))
        path = await run.finished()
        path.unlink()
        seconds = anyio.current_time() - started
        return (
            f"made in {run.duration_ms / 1000:.2f} s on {runner.status().device}, "
            f"{seconds:.1f} s with starting"
        )
