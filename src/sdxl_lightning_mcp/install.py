"""Enters the server into an MCP client's settings, with a command that runs from anywhere."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdxl_lightning_mcp import clients
from sdxl_lightning_mcp.catalogue import CATALOGUE
from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.server import choose_model


def command_line(flags: Mapping[str, object]) -> list[str]:
    """The server's command line with these flags, all paths in it absolute.

    Clients start it from a folder of their own and with next to nothing in PATH.

    Raises:
        SdxlLightningError: The server would not start with these flags.
    """
    choose_model(load_settings({}, **flags))
    python = Path(sys.executable)
    script = python.with_name("sdxl-lightning-mcp" + python.suffix)
    command = [str(script)] if script.is_file() else [str(python), "-P", "-m", __package__ or ""]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            command.append(flag)
            continue
        for one in _several(value):
            command += [flag, _absolute(name, str(one))]
    return command


def _several(value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return tuple(part for one in value for part in _several(one))  # pyright: ignore
    return () if value is None else (value,)


def _absolute(flag: str, value: str) -> str:
    """A flag's value from anywhere: what is a path here is made a whole one."""
    if flag.endswith("_dir"):
        return str(Path(value).expanduser().absolute())
    if flag not in ("model", "lora") or value in CATALOGUE:
        return value
    if Path(value).expanduser().exists():
        return str(Path(value).expanduser().absolute())
    head, colon, scale = value.rpartition(":")
    if colon and Path(head).expanduser().exists():
        return f"{Path(head).expanduser().absolute()}:{scale}"
    return value


def install(name: str | None, flags: Mapping[str, object], *, only_print: bool) -> str:
    """Enters the server into that client's settings, or shows what would be entered.

    Returns:
        What is to be told.

    Raises:
        SdxlLightningError: It was not entered; says why, and nothing was changed.
    """
    command = command_line(flags)
    if only_print:
        return clients.shown(name or clients.NAMES[0], command)
    if name is None:
        here = ", ".join(one.name for one in clients.clients()) or "none of them"
        raise SettingsError(
            f"Name a client: {', '.join(clients.NAMES)} (here: {here}); or --print, for others."
        )
    client = clients.client(name)
    if not client.is_here:
        raise SettingsError(
            f"{client.title} was not found here: there is no {client.folder}. Start it once "
            f"first, or enter it by hand: sdxl-lightning-mcp install {name} --print"
        )
    before = client.current()
    copy = client.install(command)
    if copy is None and before is not None:
        return f"{client.title} has it already: {client.file}"
    kept = f" The file as it was: {copy}." if copy else ""
    return f"{client.title}: entered into {client.file}.{kept} {client.next_step}"
