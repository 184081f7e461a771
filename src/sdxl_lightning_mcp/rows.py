"""Runs as rows of the record, and rows as runs."""

import json
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sdxl_lightning_mcp.errors import KeyInUseError, RunCanceledError, named
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Origin, Run, Status

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
# Idempotency keys are known for a day.
KEY_SECONDS = 86_400
_ANSWER = "SELECT fingerprint, runs FROM answers WHERE owner = ? AND key = ? AND created > ?"


def insert(connection: sqlite3.Connection, runs: Sequence[Run], session: str, command: str) -> None:
    """Adds runs that are begun by a session, and the key of the request that asks for them.

    Raises:
        KeyInUseError: Another process was quicker with the same key.
    """
    origin = runs[0].origin if runs else Origin()
    if origin.key is not None:
        owner, key = origin.owner or "", origin.key
        if answered(connection, owner, key.name):
            raise KeyInUseError("Another request with this Idempotency-Key has just come.")
        ids = json.dumps([run.id for run in runs])
        connection.execute(
            "REPLACE INTO answers VALUES (?, ?, ?, ?, ?)",
            (owner, key.name, key.fingerprint, time.time(), ids),
        )
    connection.executemany(
        _INSERT,
        [
            (
                run.id,
                session,
                command,
                run.origin.owner,
                run.origin.batch,
                run.origin.price,
                json.dumps(run.origin.context),
                run.parameters.model_dump_json(),
                json.dumps(run.notes),
                run.created.timestamp(),
            )
            for run in runs
        ],
    )


def end(connection: sqlite3.Connection, run: Run) -> None:
    """Adds how a run came out, once, and what it has used."""
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


def answered(connection: sqlite3.Connection, owner: str, key: str) -> tuple[str, list[str]] | None:
    """What an earlier request with this key was, and its runs; None where they are forgotten."""
    row = connection.execute(_ANSWER, (owner, key, time.time() - KEY_SECONDS)).fetchone()
    if row is None:
        return None
    ids: list[str] = json.loads(row["runs"])
    here = connection.execute(
        "SELECT COUNT(*) FROM runs WHERE id IN (SELECT value FROM json_each(?))", (row["runs"],)
    ).fetchone()[0]
    return (row["fingerprint"], ids) if here == len(ids) else None


def forget_keys(connection: sqlite3.Connection) -> None:
    """Removes the keys that are no longer known."""
    connection.execute("DELETE FROM answers WHERE created < ?", (time.time() - KEY_SECONDS,))


def read(row: sqlite3.Row) -> Run:
    """The run of a row."""
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
