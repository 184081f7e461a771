"""The record of runs: what was asked for, what came of it, also after a process is gone."""

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.errors import RunCanceledError, RunFailedError, StorageError, named
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Origin, Run, Status
from sdxl_lightning_mcp.store import Store

log = logging.getLogger(__name__)

SERVE = "serve"
# A run that was begun anew so often, and whose server ended so often, is not tried once more.
MAX_RESUMES = 2
_INSERT = """
INSERT INTO runs (id, session, command, owner, batch, price, context, parameters, notes, created,
                  status)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued')
"""
_END = """
UPDATE runs SET status = ?, notes = ?, started = ?, completed = ?, duration_ms = ?, path = ?,
                size = ?, error_code = ?, error = ?
WHERE id = ? AND completed IS NULL
"""
_USAGE = """
INSERT INTO usage VALUES (?, ?, ?, 1, ?, ?, ?)
ON CONFLICT DO UPDATE SET runs = runs + 1, pixels = pixels + excluded.pixels,
    duration_ms = duration_ms + excluded.duration_ms, cost = cost + excluded.cost
"""


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

    # --- this process's runs ---------------------------------------------------------------

    def begin(self, runs: Sequence[Run]) -> None:
        """Records runs before they are acknowledged: all, or none.

        Raises:
            StorageError: They cannot be recorded.
        """
        self._enter()
        rows = [
            (
                run.id,
                self.session,
                self._command,
                run.origin.owner,
                run.origin.batch,
                run.origin.price,
                json.dumps(run.origin.context),
                run.parameters.model_dump_json(),
                json.dumps(run.notes),
                run.created.timestamp(),
            )
            for run in runs
        ]
        with self.database.transaction() as connection:
            connection.executemany(_INSERT, rows)

    def end(self, runs: Iterable[Run]) -> None:
        """Records how runs came out, and adds them to their owners' usage.

        Raises:
            StorageError: It cannot be recorded.
        """
        with self.database.transaction() as connection:
            for run in runs:
                _end(connection, run)

    def leave(self, runs: Iterable[Run]) -> None:
        """This process ends: what it has not finished waits for the next `serve`, or has ended.

        Raises:
            StorageError: It cannot be recorded.
        """
        if self._command != SERVE:
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
        rows = self.database.read(query, values)
        return _run(rows[0]) if rows else None

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
        return [_run(row) for row in self.database.read(query, [*given.values(), limit])]

    def usage(self, owner: str | None = None, since: str = "") -> list[dict[str, Any]]:
        """What an owner, or everyone, has used: a row for each day and status of runs.

        `since` is a date in UTC, 2026-01-31. Runs that are forgotten count all the same.

        Raises:
            StorageError: The record cannot be read.
        """
        rows = self.database.read(
            "SELECT owner, day, status, runs, pixels, duration_ms, cost FROM usage "
            "WHERE (? IS NULL OR owner = ?) AND day >= ? ORDER BY day, owner, status",
            (owner, owner, since),
        )
        return [dict(row) for row in rows]

    def forget(self, run: Run) -> None:
        """Removes a finished run, and its picture where `serve` made it.

        Raises:
            StorageError: The record cannot be written.
        """
        self._remove("id = ?", (run.id,))

    def prune(self, most: int, days: float = 0, size: float = 0) -> int:
        """Removes the oldest finished runs beyond `most`, or older, or beyond `size` bytes.

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
            rows: list[sqlite3.Row] = []
            for session in gone:
                rows += connection.execute(
                    "UPDATE runs SET session = ?, resumed = resumed + 1 "
                    "WHERE session = ? AND completed IS NULL RETURNING *",
                    (self.session, session),
                ).fetchall()
                connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
            runs = [_run(row) for row in sorted(rows, key=lambda row: row["id"])]
            often = {row["id"] for row in rows if row["resumed"] > MAX_RESUMES}
            for run in runs:
                if not self._adopt(run) and run.id in often:
                    text = f"The server ended {MAX_RESUMES + 1} times while this run was with it."
                    run.settle(Status.FAILED, RunFailedError(text))
                if run.done:
                    _end(connection, run)
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
                for run in map(_run, left.fetchall()):
                    if not self._adopt(run):
                        text = "The server that was to draw this picture ended before it was done."
                        run.settle(Status.FAILED, RunFailedError(text))
                    _end(connection, run)
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
        rows = self.database.read(
            f"SELECT id, command, path FROM runs WHERE completed IS NOT NULL AND {where}", values
        )
        for row in rows:
            if row["path"] and row["command"] == SERVE:
                with contextlib.suppress(OSError):
                    Path(row["path"]).unlink(missing_ok=True)
        with self.database.transaction() as connection:
            connection.executemany("DELETE FROM runs WHERE id = ?", [(row["id"],) for row in rows])
        return len(rows)


def _end(connection: sqlite3.Connection, run: Run) -> None:
    ended = connection.execute(
        _END,
        (
            run.status,
            json.dumps(run.notes),
            run.started_at and run.started_at.timestamp(),
            (run.completed_at or datetime.now(UTC)).timestamp(),
            run.duration_ms,
            None if run.path is None else str(run.path),
            run.size,
            run.error and run.error.code,
            run.error and str(run.error),
            run.id,
        ),
    )
    if ended.rowcount:
        pixels = run.parameters.width * run.parameters.height
        connection.execute(
            _USAGE,
            (
                run.origin.owner or "",
                f"{run.completed_at or datetime.now(UTC):%Y-%m-%d}",
                run.status,
                pixels if run.status is Status.SUCCEEDED else 0,
                run.duration_ms,
                run.cost or 0.0,
            ),
        )


def _run(row: sqlite3.Row) -> Run:
    run = Run(
        Parameters.model_validate_json(row["parameters"]),
        json.loads(row["notes"]),
        Origin(row["owner"], row["batch"], row["price"], json.loads(row["context"])),
        id=row["id"],
        created=datetime.fromtimestamp(row["created"], UTC),
        status=Status(row["status"]),
        message=row["status"],
        path=Path(row["path"]) if row["path"] else None,
        size=row["size"],
        error=named(row["error_code"], row["error"]) if row["error_code"] else None,
        duration_ms=row["duration_ms"],
    )
    run.started_at, run.completed_at = _time(row["started"]), _time(row["completed"])
    if run.status is Status.CANCELED and run.error is None:
        run.error = RunCanceledError("The run was canceled.")
    return run


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
