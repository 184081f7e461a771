"""The SQLite file that several processes share: runs, keys, and what was answered already."""

import contextlib
import sqlite3
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from sdxl_lightning_mcp.errors import StorageError

FOLDER = "sdxl-lightning"
BUSY_SECONDS = 10.0
# Times are seconds since 1970 (UTC); parameters, notes and context are JSON.
FIRST = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, command TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL
) STRICT;
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    session TEXT NOT NULL, command TEXT NOT NULL,
    owner TEXT, batch TEXT, price REAL, context TEXT NOT NULL,
    parameters TEXT NOT NULL, notes TEXT NOT NULL,
    created REAL NOT NULL, started REAL, completed REAL, duration_ms INTEGER NOT NULL DEFAULT 0,
    status TEXT NOT NULL, resumed INTEGER NOT NULL DEFAULT 0,
    path TEXT, size INTEGER, error_code TEXT, error TEXT
) STRICT;
CREATE INDEX runs_of_owner ON runs (owner, id);
CREATE INDEX runs_of_batch ON runs (batch, id) WHERE batch IS NOT NULL;
CREATE INDEX runs_unfinished ON runs (session) WHERE completed IS NULL;
CREATE TABLE usage (
    owner TEXT NOT NULL, day TEXT NOT NULL, status TEXT NOT NULL,
    runs INTEGER NOT NULL, pixels INTEGER NOT NULL, duration_ms INTEGER NOT NULL,
    cost REAL NOT NULL,
    PRIMARY KEY (owner, day, status)
) STRICT;
CREATE TABLE keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL, created REAL NOT NULL,
    revoked REAL
) STRICT;
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE callbacks (
    run TEXT PRIMARY KEY, url TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL, outcome TEXT
) STRICT;
"""
# A key and its runs are recorded at once: whether it was answered need not be said.
SECOND = """
DROP TABLE IF EXISTS answers;
CREATE TABLE answers (
    owner TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, created REAL NOT NULL,
    runs TEXT NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT;
"""
# What a file goes through from its beginning to this version; it notes how many it has.
VERSIONS = (FIRST, SECOND)


class Database:
    """A connection that threads share, to a file that processes share.

    The file is opened with its first use, so that a folder that cannot be written is said to
    whoever first needs it. Every method may wait for the disk: call them off the event loop.
    """

    def __init__(self, folder: Path | None = None) -> None:
        default = Path(platformdirs.user_data_dir(FOLDER, appauthor=False))
        self.folder = (folder or default).expanduser().absolute()
        self.path = self.folder / "runs.sqlite3"
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """All that is done inside is kept, or nothing is.

        Raises:
            StorageError: The file cannot be written, or is none of ours.
        """
        with self._lock, self._errors():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query.

        Raises:
            StorageError: The file cannot be read, or is none of ours.
        """
        with self.reading() as connection:
            return connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Inside, several queries can be asked.

        Raises:
            StorageError: The file cannot be read, or is none of ours.
        """
        with self._lock, self._errors():
            yield self._open()

    def close(self) -> None:
        """Closes the file; it is opened again when it is needed again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Prompts are private: nobody else may read what we make.
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
            connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                # One process at a time: SQLite does not wait when two switch to WAL at once.
                with FileLock(self.folder / "runs.lock", timeout=BUSY_SECONDS, mode=0o600):
                    self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        # A run that was acknowledged is there also after the power was cut.
        connection.execute("PRAGMA synchronous = FULL")
        # Closed where this raises, which takes back what was begun.
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(VERSIONS):
            raise StorageError(
                f"{self.path} was written by a newer version of this package. "
                "Install that one, or name another folder with --data-dir."
            )
        for statements in VERSIONS[version:]:
            for statement in statements.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(VERSIONS)}")
        connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            cure = "Name another folder with --data-dir, or free some space."
            if not isinstance(error, sqlite3.OperationalError):
                cure = "Move the file away, and a new one is begun."
            raise StorageError(
                f"The record of runs {self.path} cannot be used: {error}. {cure}"
            ) from error
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"The record of runs {self.path} cannot be used: {error.strerror or error}. "
                "Name another folder with --data-dir or SDXL_LIGHTNING_DATA_DIR."
            ) from error
