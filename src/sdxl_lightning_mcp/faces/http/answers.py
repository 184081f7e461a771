"""Idempotency keys: the same request with the same key is answered by the same runs, for a day."""

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
from starlette.requests import Request

from sdxl_lightning_mcp.errors import KeyInUseError
from sdxl_lightning_mcp.faces.http.access import caller
from sdxl_lightning_mcp.faces.http.problems import Refusal
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.run import Key, Run

KEY = "Idempotency-Key"
WRITTEN = re.compile(r"[\x21-\x7e]{1,255}")


class Answers:
    """The keys that were seen: on record with their runs, so that a restart makes none twice."""

    def __init__(self, site: Site) -> None:
        self._site = site
        # Whose requests are being answered, with their fingerprints.
        self._answering: dict[tuple[str | None, str], str] = {}

    @asynccontextmanager
    async def once(
        self, request: Request, body: Mapping[str, Any], runs: Sequence[Run]
    ) -> AsyncGenerator[list[Run] | None]:
        """Inside, these runs are submitted and answered; or the runs of an earlier request are.

        Yields those of the earlier request, or None.

        Raises:
            Refusal: 400 where the key is none, 422 where it was used for something else.
            KeyInUseError: The earlier request is still being answered.
        """
        name = request.headers.get(KEY)
        if name is None:
            yield None
            return
        if not WRITTEN.fullmatch(name):
            raise Refusal(400, "idempotency_key_invalid", f"An {KEY} is 1 to 255 ASCII characters.")
        text = json.dumps([request.url.path, body], sort_keys=True)
        key = Key(name, hashlib.sha256(text.encode("utf-8")).hexdigest())
        owner = caller.get().owner
        earlier = await anyio.to_thread.run_sync(self._site.record.answered, owner, name)
        whose = owner, name
        _check_same(key, self._answering.get(whose) or (earlier and earlier[0]))
        if whose in self._answering:
            raise KeyInUseError(f"The first request with this {KEY} is still being answered.")
        if earlier is not None:
            yield [await self._site.find(run_id) for run_id in earlier[1]]
            return
        for run in runs:
            run.origin = replace(run.origin, key=key)
        self._answering[whose] = key.fingerprint
        try:
            yield None
        finally:
            del self._answering[whose]


def _check_same(key: Key, fingerprint: str | None) -> None:
    if fingerprint not in (None, key.fingerprint):
        raise Refusal(
            422,
            "idempotency_key_reused",
            f"This {KEY} was used for another request; take a new one.",
        )
