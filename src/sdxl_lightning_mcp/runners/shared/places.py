"""Where a shared worker and its servers meet: files in a folder that is the person's alone."""

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from sdxl_lightning_mcp.checkpoint import WeightFile
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.runners.wire import Assignment

NAME = "sdxl-lightning-mcp"
PACKAGE = Path(__file__).parents[2]
# Of an assignment: of the model its checkpoints count.
NO_DIFFERENCE = ("model", "log_level")
LIBRARIES = (NAME, "torch", "diffusers", "transformers")
# What a socket's address has room for: 104 bytes on macOS, 108 on Linux, the zero at its end among
# them.
LONGEST = 103


@dataclass(frozen=True)
class Facts:
    """What a shared worker tells of itself to whoever looks: its process, what it has, for whom."""

    pid: int
    model: str
    device: str
    servers: int


@dataclass(frozen=True)
class Place:
    """The files of one shared worker, all of the same name: its `key`."""

    folder: Path
    key: str

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / f"{self.key}.sock"

    @property
    def log(self) -> Path:
        """What it logs; kept when it ends otherwise than for want of servers."""
        return self.folder / f"{self.key}.log"

    @property
    def lock(self) -> Path:
        """What it holds locked as long as it lives."""
        return self.folder / f"{self.key}.lock"

    @property
    def _facts(self) -> Path:
        return self.folder / f"{self.key}.json"

    def hold(self) -> FileLock | None:
        """The lock that a worker holds as long as it lives; None where another holds it.

        The system opens it when its process ends, however that ends.
        """
        lock = FileLock(self.lock, mode=0o600, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock

    def tell(self, facts: Facts) -> None:
        """Writes what is told of the worker."""
        part = self._facts.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(asdict(facts)), "utf-8")
        part.replace(self._facts)

    def told(self) -> Facts | None:
        """What the worker told last; None where it has not told anything."""
        try:
            return Facts(**json.loads(self._facts.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def clear(self) -> None:
        """Removes what a worker leaves behind, but its log; only who holds the lock may."""
        for path in (self.socket, self._facts, self.lock):
            path.unlink(missing_ok=True)


def place_of(folder: Path, assignment: Assignment, environment: Mapping[str, str]) -> Place:
    """Where servers meet that would have the same drawn by the same code: no others share.

    That a person's own file was changed is a difference. How much is logged is none, nor by what
    name the checkpoints were chosen.
    """
    checkpoints = assignment.model.checkpoints
    own = {file for one in checkpoints for file in one.all_files if isinstance(file.source, Path)}
    unequal = {name: told for name, told in vars(assignment).items() if name not in NO_DIFFERENCE}
    told: list[Any] = [
        sys.executable,
        [(name, version(name)) for name in LIBRARIES],
        # A checkout keeps its version while its code changes.
        str(PACKAGE),
        max(path.stat().st_mtime_ns for path in PACKAGE.rglob("*.py")),
        sorted(map(_identity, own)),
        repr(checkpoints),
        repr(unequal),
        sorted(environment.items()),
    ]
    return Place(folder, hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16])


def _identity(file: WeightFile) -> tuple[str, int, int]:
    assert isinstance(file.source, Path)
    path = file.source / file.path
    with contextlib.suppress(OSError):
        found = path.stat()
        return str(path), found.st_size, found.st_mtime_ns
    return str(path), 0, 0


def meeting_folder() -> Path:
    """The folder where they meet; it is made where it is not there yet.

    Whoever can reach it can have pictures drawn, and be read as one reads oneself (`wire.py`). So
    it is refused where anyone else can.

    Raises:
        SettingsError: It belongs to somebody else, is open to others, or cannot be made.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # where XDG_RUNTIME_DIR is not set
            folder = platformdirs.user_runtime_path(NAME, appauthor=False, ensure_exists=True)
        if len(os.fsencode(Place(folder, "0" * 16).socket)) > LONGEST:
            folder = Path(tempfile.gettempdir(), f"{NAME}-{os.getuid()}")
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise SettingsError(
            f"There is no folder where servers can meet to share an engine: {error}. "
            "Start with --private."
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SettingsError(
            f"{folder}, where servers meet to share an engine, is not a folder of your own: "
            "remove it, or start with --private."
        )
    if found.st_mode & 0o077:
        raise SettingsError(
            f"{folder}, where servers meet to share an engine, is open to others (mode "
            f"{stat.S_IMODE(found.st_mode):o}): chmod 700 {folder}, or start with --private."
        )
    return folder


def running(folder: Path) -> Iterator[tuple[Place, Facts]]:
    """The shared workers that live; what dead ones left is removed."""
    for path in sorted(folder.glob("*.lock")):
        place = Place(folder, path.stem)
        if lock := place.hold():
            place.clear()
            lock.release()
        elif facts := place.told():
            yield place, facts
