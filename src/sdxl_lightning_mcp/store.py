"""Finished pictures on disk."""

import errno
import os
import threading
from datetime import datetime
from pathlib import Path

import platformdirs

from sdxl_lightning_mcp.errors import StorageError
from sdxl_lightning_mcp.image import GeneratedImage

FOLDER = "sdxl-lightning"


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

    @property
    def folder(self) -> Path:
        """Where pictures go, made if it is not there.

        Raises:
            StorageError: It cannot be written.
        """
        with self._lock:
            if self._folder is None:
                self._folder = self._given and _writable(self._given.expanduser().absolute())
            if self._folder is None:
                self._folder = self._default()
            elif not self._folder.is_dir():
                _writable(self._folder)
            return self._folder

    def save(self, image: GeneratedImage, run_id: str, created: datetime) -> Path:
        """Writes a picture under a name of its own, whole or not at all.

        Raises:
            StorageError: It cannot be written, or the name is taken; nothing is left behind.
        """
        name = f"{created.astimezone():%Y-%m-%d_%H-%M-%S}_{run_id}.jpg"
        path = self.folder / name
        if path.exists():
            raise StorageError(f"There is a file {path} already; it is left as it was.")
        return image.save(path)

    def _default(self) -> Path:
        wanted = Path(platformdirs.user_pictures_dir()) / FOLDER
        try:
            return _writable(wanted)
        except StorageError as error:
            fallback = Path(platformdirs.user_data_dir(FOLDER, appauthor=False)) / "pictures"
            self.note = f"{error} Pictures are kept in {fallback} instead."
            return _writable(fallback)


def _writable(folder: Path) -> Path:
    """Makes the folder if needed and returns it; StorageError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be written: {error.strerror or error}. "
            "Name another one with --output-dir or SDXL_LIGHTNING_OUTPUT_DIR."
        ) from error
    return folder
