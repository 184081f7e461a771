"""Callbacks: a run's end is posted to its caller, signed, and again until it is heard."""

import ipaddress
import json
import logging
import socket
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import cast
from urllib.parse import urlsplit

import anyio
import httpcore2
from standardwebhooks import Webhook

from sdxl_lightning_mcp.errors import InvalidRequestError, Problem, StorageError
from sdxl_lightning_mcp.faces.http.access import Links
from sdxl_lightning_mcp.faces.http.replies import run_reply
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.settings import Settings

log = logging.getLogger(__name__)

# Seconds after each attempt that was not heard; the last is the seventh, after nine hours.
PAUSES = (1.0, 10.0, 60.0, 600.0, 3600.0, 28_800.0)
SECONDS = 15.0
AT_ONCE = 8
LONGEST_URL = 2048
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
EVENTS = {
    Status.SUCCEEDED: "run.succeeded",
    Status.FAILED: "run.failed",
    Status.CANCELED: "run.canceled",
}


class Callbacks:
    """The callbacks that are owed, on record, so that a restart forgets none."""

    def __init__(self, settings: Settings, record: Record, links: Links) -> None:
        self._record, self._links = record, links
        host = [*settings.allowed_hosts, settings.host][0]
        self._url = settings.public_url or f"http://{host}:{settings.port}"
        self._webhook = Webhook(settings.callback_secret) if settings.callback_secret else None
        self._private = settings.callback_private
        self._wake = anyio.Event()
        self._troubled = False

    @property
    def allowed(self) -> bool:
        """Whether there are any."""
        return self._webhook is not None

    def check(self, url: object) -> str | None:
        """A callback's address as it came in.

        Raises:
            InvalidRequestError: Callbacks are not allowed here, or not to there.
        """
        if url is None:
            return None
        schemes = ("https", "http") if self._private else ("https",)
        allowed = f"an {' or '.join(schemes)} address of at most {LONGEST_URL:,} characters"
        if self._webhook is None:
            allowed = "nothing: callbacks are off; SDXL_LIGHTNING_CALLBACK_SECRET turns them on"
        elif isinstance(url, str) and len(url) <= LONGEST_URL:
            try:
                parts = urlsplit(url)
                known = parts.scheme in schemes and parts.hostname and not parts.username
                if known and parts.port != 0 and url.isascii() and self._may_be(parts.hostname):
                    return url
            except ValueError:
                pass
            allowed += " that is not private"
        raise InvalidRequestError(Problem("callback_url", repr(url)[:80], allowed))

    async def expect(self, runs: Sequence[Run]) -> None:
        """Notes whom to tell of these runs, before they are taken in."""
        owed = [
            (run.id, url, time.time())
            for run in runs
            if (url := run.origin.context.get("callback_url"))
        ]
        if owed:
            await anyio.to_thread.run_sync(self._note, owed)

    def ended(self, run: Run) -> None:
        """A run has ended; if someone is to be told, it is done soon."""
        if run.origin.context.get("callback_url"):
            self._wake.set()

    async def deliver(self) -> None:
        """Tells everyone who is owed it, for ever."""
        if self._webhook is None:
            return
        backend = None if self._private else PublicOnly()
        async with httpcore2.AsyncConnectionPool(network_backend=backend) as pool:
            while True:
                self._wake = anyio.Event()
                self._troubled = False
                due, pause = await self._read_due()
                limit = anyio.CapacityLimiter(AT_ONCE)
                async with anyio.create_task_group() as tasks:
                    for run_id, url, attempts in due:
                        tasks.start_soon(self._attempt, pool, limit, run_id, url, attempts)
                if self._troubled:
                    # What was told could not be noted: not at once again.
                    await anyio.sleep(PAUSES[1])
                elif not due:
                    with anyio.move_on_after(pause):
                        await self._wake.wait()

    async def _read_due(self) -> tuple[list[tuple[str, str, int]], float]:
        try:
            return await anyio.to_thread.run_sync(self._due)
        except StorageError:
            log.exception("callbacks cannot be read")
            self._troubled = True
            return [], PAUSES[1]

    async def _attempt(
        self,
        pool: httpcore2.AsyncConnectionPool,
        limit: anyio.CapacityLimiter,
        run_id: str,
        url: str,
        attempts: int,
    ) -> None:
        try:
            async with limit:
                run = await anyio.to_thread.run_sync(self._record.find, run_id)
                outcome = "forgotten" if run is None else await self._post(pool, run, url)
            await self._note_outcome(run_id, attempts, outcome)
        except StorageError:
            log.exception("the callback of run %s cannot be noted", run_id)
            self._troubled = True

    async def _note_outcome(self, run_id: str, attempts: int, outcome: str) -> None:
        if outcome not in ("delivered", "forgotten") and attempts < len(PAUSES):
            log.info("callback of run %s: %s; tried again", run_id, outcome)
            due, kept = time.time() + PAUSES[attempts], None
        else:
            log.info("callback of run %s: %s", run_id, outcome)
            due, kept = time.time(), outcome
        await anyio.to_thread.run_sync(self._settle, run_id, attempts + 1, due, kept)

    async def _post(self, pool: httpcore2.AsyncConnectionPool, run: Run, url: str) -> str:
        assert self._webhook is not None
        now = datetime.now(UTC)
        body = json.dumps(
            {
                "type": EVENTS[run.status],
                "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "data": run_reply(run, self._url, self._links),
            }
        )
        headers: dict[str | bytes, str | bytes] = {
            "content-type": "application/json",
            "user-agent": "sdxl-lightning-mcp",
            "webhook-id": f"msg_{run.id}",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(f"msg_{run.id}", now, body),
        }
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), SECONDS)
        try:
            with anyio.fail_after(SECONDS):
                # Redirects are not followed: they would lead anywhere.
                async with pool.stream(
                    "POST",
                    url,
                    headers=headers,
                    content=body.encode("utf-8"),
                    extensions={"timeout": timeouts},
                ) as response:
                    status = response.status
        except Exception as error:
            # Whatever an address does, it is told again later, and the server goes on.
            return f"not heard ({type(error).__name__}: {error})"
        return "delivered" if 200 <= status < 300 else f"answered {status}"

    def _may_be(self, host: str | None) -> bool:
        """Refuses at once what is plainly private; names are looked up when they are called."""
        if self._private:
            return True
        try:
            return is_public(str(host))
        except ValueError:
            return host != "localhost"

    def _note(self, owed: Iterable[tuple[str, str, float]]) -> None:
        with self._record.database.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO callbacks (run, url, due) VALUES (?, ?, ?)", owed
            )

    def _due(self) -> tuple[list[tuple[str, str, int]], float]:
        """What is to be told now, and in how many seconds there may be more."""
        now = time.time()
        rows = self._record.database.read(
            "SELECT run, url, attempts, due FROM callbacks JOIN runs ON runs.id = run "
            "WHERE outcome IS NULL AND completed IS NOT NULL ORDER BY due LIMIT 100"
        )
        due = [(row["run"], row["url"], row["attempts"]) for row in rows if row["due"] <= now]
        later = [row["due"] - now for row in rows if row["due"] > now]
        return due, min([*later, PAUSES[-1]])

    def _settle(self, run_id: str, attempts: int, due: float, outcome: str | None) -> None:
        with self._record.database.transaction() as connection:
            connection.execute(
                "UPDATE callbacks SET attempts = ?, due = ?, outcome = ? WHERE run = ?",
                (attempts, due, outcome, run_id),
            )
            connection.execute(
                "DELETE FROM callbacks WHERE outcome IS NOT NULL "
                "AND run NOT IN (SELECT id FROM runs)"
            )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's.

    Raises:
        ValueError: It is no IP address.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses that stand for others (6to4) or lead through translators stay out.
        return ip in GLOBAL_UNICAST and ip.is_global and ip.sixtofour is None
    return ip.is_global and not ip.is_multicast


class PublicOnly(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only: a name is looked up once, and what was found is used."""

    def __init__(self) -> None:
        self._backend = cast(httpcore2.AsyncNetworkBackend, httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """As httpcore's; OSError where the name leads anywhere else."""
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        if not addresses or not all(map(is_public, addresses)):
            raise OSError(f"{host} is not a public address")
        return await self._backend.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        await self._backend.sleep(seconds)
