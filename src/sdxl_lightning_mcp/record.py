"""The record of runs: what was asked for, what came of it, also after a process is gone."""

import contextlib
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sdxl_lightning_mcp import rows
from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.errors import RunFailedError, StorageError
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)

SERVE = "serve"
# A run that was begun anew so often, and whose server ended so often, is not tried once more.
MAX_RESUMES = 2


class Record:
    """The runs of this process and of all others that share the data folder.

    Runs that a process left unfinished are dealt with by the next one: those of `serve` are kept
    for the next `serve` to `claim`; those of any other command have failed, since whoever waited
    for them is gone. Which processes live is told by locks that end with them.

    Every method may wait for the disk: call them off the event loop.

    Args:
        database: Where runs are recorded.
        store: Where their pictures lie.
        command: What this process is: `stdio`, `serve`.
    """

    def __init__(self, database: Database, store: Store, command: str) -> None:
        self.database = database
        self.session = uuid.uuid4().hex
        self.store = store
        self._command = command
        self._lock = threading.Lock()
        self._living: FileLock | None = None

    @property
    def resumes(self) -> bool:
        """Whether what this process leaves unfinished waits for the next one."""
        return self._command == SERVE

    # --- this process's runs ---------------------------------------------------------------

    def begin(self, runs: Sequence[Run]) -> None:
        """Records runs before they are acknowledged, with their request's key: all, or none.

        Raises:
            KeyInUseError: Another process has just recorded runs with that key.
            StorageError: They cannot be recorded.
        """
        self._enter()
        with self.database.transaction() as connection:
            rows.insert(connection, runs, self.session, self._command)

    def end(self, runs: Iterable[Run]) -> None:
        """Records how runs came out, and adds them to their owners' usage.

        Raises:
            StorageError: It cannot be recorded.
        """
        with self.database.transaction() as connection:
            for run in runs:
                rows.end(connection, run)

    def leave(self, runs: Iterable[Run]) -> None:
        """This process ends: what it has not finished waits for the next `serve`, or has ended.

        Raises:
            StorageError: It cannot be recorded.
        """
        if not self.resumes:
            self.end(runs)

    # --- everyone's runs -------------------------------------------------------------------

    def find(self, run_id: str, owner: str | None = None) -> Run | None:
        """A run by its id, whoever made it; with `owner`, only if it is that owner's.

        A run of another process that is under way is told as queued.

        Raises:
            StorageError: The record cannot be read.
        """
        query, values = "SELECT * FROM runs WHERE id = ?", [run_id]
        if owner is not None:
            query, values = f"{query} AND owner = ?", [*values, owner]
        found = self.database.read(query, values)
        return rows.read(found[0]) if found else None

    def latest(
        self,
        limit: int,
        *,
        before: str | None = None,
        owner: str | None = None,
        batch: str | None = None,
    ) -> list[Run]:
        """The newest runs first, `limit` of them, those before a run's id where one is given.

        Raises:
            StorageError: The record cannot be read.
        """
        wanted: dict[str, object] = {"id <": before, "owner =": owner, "batch =": batch}
        given = {key: value for key, value in wanted.items() if value is not None}
        where = " AND ".join(f"{key} ?" for key in given) or "1"
        query = f"SELECT * FROM runs WHERE {where} ORDER BY id DESC LIMIT ?"
        return [rows.read(row) for row in self.database.read(query, [*given.values(), limit])]

    def answered(self, owner: str | None, key: str) -> tuple[str, list[str]] | None:
        """The fingerprint and the runs of an owner's earlier request with an idempotency key.

        None where there was none within a day, or where one of its runs is forgotten.

        Raises:
            StorageError: The record cannot be read.
        """
        with self.database.reading() as connection:
            return rows.answered(connection, owner or "", key)

    def usage(self, owner: str | None = None, since: str = "") -> list[dict[str, Any]]:
        """What an owner, or everyone, has used: a row for each day and status of runs.

        `since` is a date in UTC, 2026-01-31. Runs that are forgotten count all the same.

        Raises:
            StorageError: The record cannot be read.
        """
        days = self.database.read(
            "SELECT owner, day, status, runs, pixels, duration_ms, cost FROM usage "
            "WHERE (? IS NULL OR owner = ?) AND day >= ? ORDER BY day, owner, status",
            (owner, owner, since),
        )
        return [dict(day) for day in days]

    def forget(self, run: Run) -> None:
        """Removes a finished run, and its picture where `serve` made it.

        Raises:
            StorageError: The record cannot be written.
        """
        self._remove("id = ?", (run.id,))

    def prune(self, most: int, days: float = 0, size: float = 0) -> int:
        """Removes the oldest finished runs beyond `most`, or older, or beyond `size` bytes.

        And the keys of requests that are too old to come again.
        0 days and 0 bytes are without limit. Pictures go where `serve` made them; what any other
        command made belongs to the person, and only its row goes.

        Returns:
            How many runs were removed.

        Raises:
            StorageError: The record cannot be written.
        """
        removed = self._remove(
            "id <= (SELECT id FROM runs WHERE completed IS NOT NULL "
            "ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (most,),
        )
        if days:
            removed += self._remove("completed < ?", (time.time() - days * 86_400,))
        if size:
            removed += self._remove(
                "id IN (SELECT id FROM (SELECT id, SUM(size) OVER (ORDER BY id DESC) AS total "
                "FROM runs WHERE command = 'serve' AND size IS NOT NULL) WHERE total > ?)",
                (size,),
            )
        with self.database.transaction() as connection:
            rows.forget_keys(connection)
        return removed

    # --- processes -------------------------------------------------------------------------

    def claim(self) -> list[Run]:
        """Takes over what servers that are gone left unfinished, the oldest first.

        A run whose picture was written already has succeeded; one that was begun anew too often
        has failed.

        Raises:
            StorageError: The record cannot be used.
        """
        self._enter()
        with contextlib.ExitStack() as stack, self.database.transaction() as connection:
            gone = [
                row["id"]
                for row in connection.execute("SELECT * FROM sessions WHERE command = 'serve'")
                if row["id"] != self.session and stack.enter_context(self._if_gone(row["id"]))
            ]
            left: list[sqlite3.Row] = []
            for session in gone:
                left += connection.execute(
                    "UPDATE runs SET session = ?, resumed = resumed + 1 "
                    "WHERE session = ? AND completed IS NULL RETURNING *",
                    (self.session, session),
                ).fetchall()
                connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
            runs = [rows.read(row) for row in sorted(left, key=lambda row: row["id"])]
            often = {row["id"] for row in left if row["resumed"] > MAX_RESUMES}
            for run in runs:
                if not self._adopt(run) and run.id in often:
                    text = f"The server ended {MAX_RESUMES + 1} times while this run was with it."
                    run.settle(Status.FAILED, RunFailedError(text))
                if run.done:
                    rows.end(connection, run)
        return [run for run in runs if not run.done]

    def close(self) -> None:
        """Says that this process is gone; what it left unfinished stays with its session."""
        with self._lock:
            if self._living is None:
                return
            with contextlib.suppress(StorageError), self.database.transaction() as connection:
                connection.execute(
                    "DELETE FROM sessions WHERE id = ? AND NOT EXISTS "
                    "(SELECT 1 FROM runs WHERE session = sessions.id AND completed IS NULL)",
                    (self.session,),
                )
            self._living.release()
            Path(self._living.lock_file).unlink(missing_ok=True)
            self._living = None
        self.database.close()

    def _enter(self) -> None:
        """Makes this process known, once, and ends what others left behind."""
        with self._lock:
            if self._living is not None:
                return
            # First the lock, then the row: without the lock a session counts as gone.
            living = self._lock_of(self.session)
            with self.database.transaction():
                pass  # the folder is there now, or it is said why not
            living.acquire()
            with self.database.transaction() as connection:
                connection.execute(
                    "INSERT INTO sessions VALUES (?, ?, ?, ?)",
                    (self.session, self._command, os.getpid(), time.time()),
                )
                self._end_orphans(connection)
            self._living = living

    def _end_orphans(self, connection: sqlite3.Connection) -> None:
        """Fails the unfinished runs of processes that are gone, except those of `serve`."""
        for row in connection.execute(
            "SELECT id FROM sessions WHERE command != 'serve' AND id != ?", (self.session,)
        ).fetchall():
            with self._if_gone(row["id"]) as gone:
                if not gone:
                    continue
                left = connection.execute(
                    "SELECT * FROM runs WHERE session = ? AND completed IS NULL", (row["id"],)
                )
                for run in map(rows.read, left.fetchall()):
                    if not self._adopt(run):
                        text = "The server that was to draw this picture ended before it was done."
                        run.settle(Status.FAILED, RunFailedError(text))
                    rows.end(connection, run)
                connection.execute("DELETE FROM sessions WHERE id = ?", (row["id"],))

    def _adopt(self, run: Run) -> bool:
        """Whether the picture was written before the end of the run could be recorded."""
        found = self.store.find(run.id, run.parameters)
        if found is None:
            return False
        run.path, run.size = found, found.stat().st_size
        run.settle(Status.SUCCEEDED)
        return True

    @contextlib.contextmanager
    def _if_gone(self, session: str) -> Generator[bool]:
        """Whether a session's process is gone; then nobody else can take over from it here."""
        lock = self._lock_of(session)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)

    def _lock_of(self, session: str) -> FileLock:
        path = self.database.folder / f"{session}.lock"
        # Threads share it; and a lock that is only a file would outlive its process.
        return FileLock(path, mode=0o600, thread_local=False, fallback_to_soft=False)

    def _remove(self, where: str, values: Sequence[Any]) -> int:
        """Removes finished runs: first their pictures, so that none is left that nobody knows."""
        gone = self.database.read(
            f"SELECT id, command, path FROM runs WHERE completed IS NOT NULL AND {where}", values
        )
        for row in gone:
            if row["path"] and row["command"] == SERVE:
                with contextlib.suppress(OSError):
                    Path(row["path"]).unlink(missing_ok=True)
        with self.database.transaction() as connection:
            connection.executemany("DELETE FROM runs WHERE id = ?", [(row["id"],) for row in gone])
        return len(gone)
