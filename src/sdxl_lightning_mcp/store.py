"""Finished pictures on disk."""

import contextlib
import os
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path

import platformdirs

from sdxl_lightning_mcp.errors import StorageError
from sdxl_lightning_mcp.image import GeneratedImage, read_parameters
from sdxl_lightning_mcp.request import Parameters

FOLDER = "sdxl-lightning"
# As `GeneratedImage.save` names them: a UUID in hexadecimal.
PART = f".{'[0-9a-f]' * 32}.part"
PART_SECONDS = 3600.0


class Store:
    """Keeps pictures under one folder; callers name pictures, never folders.

    With no folder given it is `sdxl-lightning` in the person's pictures folder, or, where that
    cannot be written, in the person's data folder; a note then says so.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self.note: str | None = None

    def check(self) -> Path:
        """Returns where pictures go, made if it is not there.

        Raises:
            StorageError: It cannot be written.
        """
        with self._lock:
            if self._folder is not None:
                # It may have been removed since, or lie on a disk that is gone.
                return _writable(self._folder)
            self._folder = self._default() if self._given is None else _writable(self._given)
            return self._folder

    def save(self, image: GeneratedImage, run_id: str, created: datetime) -> Path:
        """Writes a picture under a name of its own, whole or not at all.

        Raises:
            StorageError: It cannot be written, or the name is taken; nothing is left behind.
        """
        name = f"{created.astimezone():%Y-%m-%d_%H-%M-%S}_{run_id}.jpg"
        path = self.check() / name
        if os.path.lexists(path):
            raise StorageError(f"There is a file {path} already; it is left as it was.")
        return image.save(path)

    def find(self, run_id: str, parameters: Parameters) -> Path | None:
        """Where a run's picture lies, if it was written here and is that of these parameters."""
        with contextlib.suppress(StorageError, OSError, ValueError):
            for path in self.check().glob(f"*_{run_id}.jpg"):
                if read_parameters(path) == parameters:
                    return path
        return None

    def sweep(self) -> None:
        """Removes what processes that were killed left of pictures they were writing."""
        with contextlib.suppress(StorageError, OSError):
            for path in self.check().glob(PART):
                # A younger one may be being written by another process.
                if time.time() - path.stat().st_mtime > PART_SECONDS:
                    path.unlink(missing_ok=True)

    def _default(self) -> Path:
        wanted = Path(platformdirs.user_pictures_dir()) / FOLDER
        try:
            return _writable(wanted)
        except StorageError as error:
            fallback = Path(platformdirs.user_data_dir(FOLDER, appauthor=False)) / "pictures"
            self.note = f"{error} Pictures are kept in {fallback} instead."
            return _writable(fallback)


def _writable(folder: Path) -> Path:
    """Makes the folder if needed and returns it; StorageError where nothing can be written.

    A file is really made there: asking for permissions proves nothing on some systems.
    """
    try:
        folder = folder.expanduser().absolute()
        str(folder).encode("utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"The folder {str(folder)!r} cannot be written: {reason}. "
            "Name another one with --output-dir or SDXL_LIGHTNING_OUTPUT_DIR."
        ) from error
