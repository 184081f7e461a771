"""Idempotency keys: the same request with the same key is answered by the same runs, for a day."""

import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.requests import Request

from sdxl_lightning_mcp.faces.http.access import caller
from sdxl_lightning_mcp.faces.http.problems import Refusal
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.run import Run

KEEP_SECONDS = 86_400
KEY = "Idempotency-Key"
WRITTEN = re.compile(r"[\x21-\x7e]{1,255}")


class Answers:
    """The keys that were seen, on record, so that a restart does not make a run twice."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @asynccontextmanager
    async def once(
        self, request: Request, body: Mapping[str, Any], runs: Sequence[Run]
    ) -> AsyncGenerator[list[Run] | None]:
        """Inside, these runs are submitted and answered; or the runs of an earlier request are.

        Yields those of the earlier request, or None.

        Raises:
            Refusal: 422 where the key was used for something else, 409 while the earlier request
                is still being answered.
        """
        key = request.headers.get(KEY)
        if key is None:
            yield None
            return
        if not WRITTEN.fullmatch(key):
            raise Refusal(400, "idempotency_key_invalid", f"An {KEY} is 1 to 255 ASCII characters.")
        owner = caller.get().owner or ""
        text = json.dumps([request.url.path, body], sort_keys=True)
        fingerprint = hashlib.sha256(text.encode("utf-8")).hexdigest()
        ids = [run.id for run in runs]
        earlier = await anyio.to_thread.run_sync(self._claim, owner, key, fingerprint, ids)
        if earlier is not None:
            found = [await self._site.find(run_id) for run_id in earlier]
            yield found
            return
        try:
            yield None
        except BaseException:
            # Where nothing was begun the key is free again.
            with anyio.CancelScope(shield=True):
                begun = await anyio.to_thread.run_sync(self._recorded, ids)
                await anyio.to_thread.run_sync(self._settle, owner, key, begun)
            raise
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._settle, owner, key, True)

    def _claim(self, owner: str, key: str, fingerprint: str, ids: list[str]) -> list[str] | None:
        """Notes the key as in use; or the runs that answered it before."""
        session = self._site.record.session
        with self._site.record.database.transaction() as connection:
            connection.execute(
                "DELETE FROM answers WHERE created < ?", (time.time() - KEEP_SECONDS,)
            )
            row = connection.execute(
                "SELECT * FROM answers WHERE owner = ? AND key = ?", (owner, key)
            ).fetchone()
            if row is not None:
                if row["fingerprint"] != fingerprint:
                    raise Refusal(
                        422,
                        "idempotency_key_reused",
                        "This Idempotency-Key was used for another request; take a new one.",
                    )
                if not row["answered"] and row["session"] == session:
                    raise Refusal(
                        409,
                        "idempotency_key_in_use",
                        "The first request with this Idempotency-Key is still being answered.",
                        headers={"Retry-After": "1"},
                    )
                before: list[str] = json.loads(row["runs"])
                if self._recorded(before):
                    return before
            # New; or of a server that ended before it had taken the runs in; or forgotten.
            connection.execute(
                "REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, 0)",
                (owner, key, fingerprint, time.time(), session, json.dumps(ids)),
            )
        return None

    def _recorded(self, ids: Sequence[str]) -> bool:
        return all(self._site.record.find(run_id) for run_id in ids)

    def _settle(self, owner: str, key: str, answered: bool) -> None:
        what = "UPDATE answers SET answered = 1" if answered else "DELETE FROM answers"
        with self._site.record.database.transaction() as connection:
            connection.execute(f"{what} WHERE owner = ? AND key = ?", (owner, key))
