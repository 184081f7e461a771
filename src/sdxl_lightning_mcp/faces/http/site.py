"""What the HTTP faces share: the model, the runner, the record, and whose runs are whose."""

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from sdxl_lightning_mcp.catalogue import LIGHTNING, MINI
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import (
    ClosingError,
    InvalidRequestError,
    Problem,
    QueueFullError,
    RateLimitError,
    RunNotFoundError,
    UnknownModelError,
)
from sdxl_lightning_mcp.faces.http.access import Access, Links, caller
from sdxl_lightning_mcp.ids import check_region, new_run_id
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.request import read_request, request_schema, resolve
from sdxl_lightning_mcp.run import Origin, Run
from sdxl_lightning_mcp.runners.base import Runner, RunnerStatus
from sdxl_lightning_mcp.selection import on_disk
from sdxl_lightning_mcp.settings import Settings

log = logging.getLogger(__name__)

# Balancers ask more often than that.
WATCHED_SECONDS = 60.0


class SharedRunner(Runner):
    """A runner that several callers share: each run belongs to its caller, within its limits."""

    def __init__(self, runner: Runner, settings: Settings) -> None:
        self._runner = runner
        self._price = settings.price or None
        self._share = max(1, int(settings.queue_share * settings.max_queue))
        self._rate = settings.runs_per_minute
        self._window = MovingWindowRateLimiter(MemoryStorage())
        # It is told that the server will end; then nothing is taken in any more; then nothing is
        # waited for any more.
        self.leaving, self.closing, self.closed = anyio.Event(), anyio.Event(), anyio.Event()

    async def submit_all(self, runs: Sequence[Run]) -> None:
        """As `Runner.submit_all`, for the caller of the request that is being answered.

        Raises:
            RateLimitError, QueueFullError: The caller has asked for too many.
            ClosingError: The server is about to end.
        """
        owner = caller.get().owner
        if self.closing.is_set():
            raise ClosingError("The server is about to end. Try again in a minute.", 60)
        mine = sum(run.origin.owner == owner for run in self._runner.unended() if run.position)
        if mine + len(runs) > self._share:
            raise QueueFullError(
                f"{mine} of your runs are waiting; at most {self._share} of one key may. "
                "Try again when some are done.",
                2,
            )
        self._count(owner, len(runs))
        for run in runs:
            run.origin = replace(run.origin, owner=owner, price=self._price)
        await self._runner.submit_all(runs)

    def wake(self) -> None:
        """As `Runner.wake`."""
        self._runner.wake()

    async def take(self, runs: Sequence[Run]) -> None:
        """As `Runner.take`: whosever they are."""
        await self._runner.take(runs)

    async def cancel(self, run: Run) -> None:
        """As `Runner.cancel`."""
        await self._runner.cancel(run)

    def find(self, run_id: str) -> Run | None:
        """As `Runner.find`, but only the caller's own."""
        run = self._runner.find(run_id)
        owner = caller.get().owner
        return run if run and owner in (None, run.origin.owner) else None

    def unended(self) -> Sequence[Run]:
        """As `Runner.unended`, but only the caller's own."""
        owner = caller.get().owner
        return [run for run in self._runner.unended() if owner in (None, run.origin.owner)]

    def status(self) -> RunnerStatus:
        """As `Runner.status`: of the whole machine."""
        return self._runner.status()

    def _count(self, owner: str | None, runs: int) -> None:
        if not self._rate:
            return
        item = RateLimitItemPerMinute(self._rate)
        if not self._window.hit(item, owner or "", cost=runs):
            raise RateLimitError(
                f"A key may ask for {self._rate} runs in a minute. Try again within a minute.",
                max(1, 60 // self._rate),
            )


@dataclass
class Site:
    """One server over HTTP: what its faces ask and tell.

    `watched` is when it was last asked whether it is ready, in seconds of `time.monotonic`.
    """

    settings: Settings
    model: Model
    runner: SharedRunner
    record: Record
    access: Access
    links: Links
    started: int = field(default_factory=lambda: int(time.time()))
    watched: float = -math.inf
    schema: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.schema = request_schema(self.model)

    def notes_on(self, slug: str) -> list[str]:
        """What is to be said of a model's name in a request: nothing where it is the served one.

        Where a small machine draws with mini, that answers to the name of what it stands in for.

        Raises:
            UnknownModelError: It is another, or none.
        """
        asked = slug.removeprefix("bytedance/")
        if asked == self.model.slug:
            return []
        if asked == LIGHTNING.slug and self.model.slug == MINI.slug:
            return [] if self.model.notes else ["This server draws with mini, not SDXL-Lightning."]
        raise UnknownModelError(
            f"The model {slug[:60]!r} is not served here; {self.model.slug} is."
        )

    async def runs(
        self,
        wishes: Sequence[Mapping[str, Any]],
        origin: Origin,
        *,
        key: str | None = None,
        prefix: str = "",
        notes: Sequence[str] = (),
    ) -> list[Run]:
        """Runs for wishes as they came in from outside, not yet submitted.

        Args:
            wishes: The inputs; what names of errors begin with is `prefix`, and their number.
            origin: Who asks.
            key: The idempotency key they came with; seeds that are left out follow from it, so
                that another region's server draws the same pictures for it.
            prefix: Such as `inputs/{}/`.
            notes: What is to be said of each run besides its own.

        Raises:
            InvalidRequestError: With every field of every input that cannot be met.
        """
        model = await anyio.to_thread.run_sync(on_disk, self.model)
        runs: list[Run] = []
        problems: list[Problem] = []
        for number, wish in enumerate(wishes):
            try:
                self._check_types(wish)
                if key is not None and wish.get("seed") is None:
                    wish = {**wish, "seed": _seed(key, number)}
                parameters, own = resolve(read_request(wish, model), model)
            except InvalidRequestError as error:
                within = prefix.format(number)
                problems += [replace(one, field=within + one.field) for one in error.problems]
                continue
            run_id = new_run_id(self.settings.region)
            runs.append(Run(parameters, [*notes, *own], origin, run_id))
        if problems:
            raise InvalidRequestError(*problems)
        return runs

    def _check_types(self, wish: Mapping[str, Any]) -> None:
        """Over HTTP a number is a JSON number, as the OpenAPI file says."""
        problems = [
            Problem(name, repr(value)[:60], "a JSON number, without quotes")
            for name, value in wish.items()
            if isinstance(value, str)
            and self.schema["properties"].get(name, {}).get("type") in ("integer", "number")
        ]
        if problems:
            raise InvalidRequestError(*problems)

    async def find(self, run_id: str) -> Run:
        """The caller's run of this id, under way or from the record.

        Raises:
            RunNotFoundError: There is none; whether somebody else has one is not told, but whether
                another region has it is.
        """
        owner = caller.get().owner
        run = self.runner.find(run_id)
        if run is None:
            run = await anyio.to_thread.run_sync(self.record.find, run_id, owner)
        if run is None:
            check_region(run_id, self.settings.region)
            raise RunNotFoundError(f"There is no run {run_id[:60]!r}.")
        return run

    async def drain(self) -> None:
        """Finishes what is under way, as long as the settings say, and takes nothing in.

        Where a balancer watches, it is first given time to send nobody here any more, and meanwhile
        everyone is served as ever.
        """
        lag = await self._tell_balancers()
        seconds = self.settings.drain_seconds - lag
        log.info("closing: what is under way has %g s", seconds)
        self.runner.closing.set()
        with anyio.move_on_after(seconds):
            for run in self.runner.unended():
                async for _ in run.updates():
                    pass
        if left := len(self.runner.unended()):
            log.info("%d runs are left for the next server on this record", left)
        self.runner.closed.set()

    async def _tell_balancers(self) -> float:
        """Is not ready from now on, and returns how many seconds were waited for that to be seen.

        Nobody waits at a terminal for a balancer that is not there: it would have asked.
        """
        self.runner.leaving.set()
        lag = min(self.settings.drain_lag_seconds, self.settings.drain_seconds)
        if not lag or time.monotonic() - self.watched > WATCHED_SECONDS:
            return 0.0
        log.info("leaving: /readyz says so for %g s, and everyone is served", lag)
        await anyio.sleep(lag)
        return lag


def _seed(key: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{number} {key}".encode()).digest()[:4], "big")
