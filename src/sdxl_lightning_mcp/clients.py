"""The MCP clients of this machine: where their settings lie, and how we are entered there."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import platformdirs

from sdxl_lightning_mcp import jsonc
from sdxl_lightning_mcp.environment import claude_code_folder
from sdxl_lightning_mcp.errors import SettingsError, StorageError

SERVER = "sdxl-lightning"
# The copies of a client's file: before it was changed the first time, and the last.
KEPT = ("first", "last")


@dataclass(frozen=True)
class Client:
    """One MCP client.

    `folder` is there where the client is; `file` holds its servers below the name `servers`.
    `typed` clients want the kind of server said, those with `comments` take them in the file.
    `next_step` is what makes the client look.
    """

    name: str
    title: str
    folder: Path
    file: Path
    next_step: str
    servers: str = "mcpServers"
    typed: bool = False
    comments: bool = False

    @property
    def is_here(self) -> bool:
        """Whether the client was found on this machine."""
        return self.folder.is_dir() or self.file.exists()

    def entry(self, command: list[str]) -> dict[str, Any]:
        """What stands in the client's file for a server of that command line."""
        kind = {"type": "stdio"} if self.typed else {}
        return {**kind, "command": command[0], "args": command[1:]}

    def current(self) -> dict[str, Any] | None:
        """What stands in the client's file for us; None where we are not entered.

        Raises:
            SettingsError: The file cannot be read, or is not in the client's form.
        """
        text = _read(self.file)
        try:
            found = jsonc.get(text, (self.servers, SERVER), comments=self.comments)
        except SettingsError as error:
            raise SettingsError(f"{self.file}: {error}") from None
        return cast(dict[str, Any], found) if isinstance(found, dict) else None

    def install(self, command: list[str]) -> Path | None:
        """Enters us with that command line; what else stands in our entry stays, as `env`.

        Returns:
            The copy of the file as it was; None where there was nothing to change or to copy.

        Raises:
            SettingsError: The file cannot be read, or changed while it was worked on.
            StorageError: It cannot be written.
        """
        before = text = _read(self.file)
        path, entry = (self.servers, SERVER), self.entry(command)
        # One that has no command is of another kind, reached by its URL: none of it would fit.
        whole = "command" not in (self.current() or {})
        values = {path: entry} if whole else {(*path, name): entry[name] for name in entry}
        try:
            for where, value in values.items():
                text = jsonc.put(text, where, value, comments=self.comments)
        except SettingsError as error:
            raise SettingsError(
                f"{self.file}: {error} Nothing was changed. Correct it, or see what to enter by "
                "hand: sdxl-lightning-mcp install --print"
            ) from None
        if text == before:
            return None
        try:
            return _replace(self.file, before, text)
        except OSError as error:
            raise StorageError(
                f"{self.file} cannot be written: {error.strerror or error}. "
                f"Enter it by hand: sdxl-lightning-mcp install {self.name} --print"
            ) from error


def _claude_desktop() -> Client:
    folder = platformdirs.user_config_path("Claude", appauthor=False, roaming=True)
    return Client(
        "claude-desktop",
        "Claude Desktop",
        folder,
        folder / "claude_desktop_config.json",
        "Quit and start it again.",
    )


def _claude_code() -> Client:
    # Its own settings, beside the folder, or where the person keeps them within it.
    given = claude_code_folder()
    folder = given or Path.home() / ".claude"
    file = (given or Path.home()) / ".claude.json"
    return Client(
        "claude-code", "Claude Code", folder, file, "Start a new session in it.", typed=True
    )


def _cursor() -> Client:
    folder = Path.home() / ".cursor"
    return Client(
        "cursor",
        "Cursor",
        folder,
        folder / "mcp.json",
        "Switch it on in Settings > MCP.",
        comments=True,
    )


def _vscode() -> Client:
    folder = platformdirs.user_config_path("Code", appauthor=False, roaming=True) / "User"
    return Client(
        "vscode",
        "VS Code",
        folder,
        folder / "mcp.json",
        "Start it there: MCP: List Servers.",
        servers="servers",
        typed=True,
        comments=True,
    )


_CLIENTS: dict[str, Callable[[], Client]] = {
    "claude-desktop": _claude_desktop,
    "claude-code": _claude_code,
    "cursor": _cursor,
    "vscode": _vscode,
}
NAMES = tuple(_CLIENTS)


def client(name: str) -> Client:
    """The client of one of `NAMES`."""
    return _CLIENTS[name]()


def clients() -> list[Client]:
    """The clients that are on this machine."""
    return [one for name in NAMES if (one := client(name)).is_here]


def shown(name: str, command: list[str]) -> str:
    """What a person can paste into that client's file."""
    one = client(name)
    return json.dumps({one.servers: {SERVER: one.entry(command)}}, indent=2, ensure_ascii=False)


def _read(file: Path) -> str:
    """The file's text; empty where there is none or nothing in it."""
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"{file} cannot be read: {reason}. Nothing was changed.") from error
    return text if text.strip("\ufeff \t\r\n") else ""


def _replace(file: Path, before: str, text: str) -> Path | None:
    """Puts a text in a file's place, whole or not at all; returns the copy of what was there."""
    # Where the file is a link, as those who keep their settings elsewhere have it, it stays one.
    file = file.resolve()
    copy = None
    if file.exists():
        first, last = (file.with_name(f"{file.name}.{SERVER}-{which}.bak") for which in KEPT)
        copy = last if first.exists() else first
        # What may not be written may be replaced.
        copy.unlink(missing_ok=True)
        shutil.copy2(file, copy)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        part.chmod(file.stat().st_mode if copy else 0o644)
        # The client may be running, and write its own file.
        if _read(file) != before:
            raise SettingsError(f"{file} changed meanwhile; nothing was written. Try again.")
        part.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return copy
