"""What a server over HTTP is put together from, checked before it begins, kept while it runs."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from starlette.types import ASGIApp

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import RunFailedError, SettingsError, StorageError
from sdxl_lightning_mcp.faces.http.access import Access, Links
from sdxl_lightning_mcp.faces.http.app import build
from sdxl_lightning_mcp.faces.http.callbacks import Callbacks
from sdxl_lightning_mcp.faces.http.gate import is_loopback
from sdxl_lightning_mcp.faces.http.operation import Metrics
from sdxl_lightning_mcp.faces.http.site import SharedRunner, Site
from sdxl_lightning_mcp.keys import Keys
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.base import Runner
from sdxl_lightning_mcp.settings import Settings

log = logging.getLogger(__name__)

PRUNE_SECONDS = 60.0


class Parts:
    """Access, links, metrics and callbacks of one server, over one record."""

    def __init__(self, settings: Settings, model: Model, record: Record) -> None:
        self._settings, self._model, self._record = settings, model, record
        self.access = Access(settings, Keys(record.database))
        self.links = Links(record.database, settings.link_minutes * 60)
        self.metrics = Metrics()
        self.callbacks = Callbacks(settings, record, self.links)

    async def check(self) -> None:
        """Whether it may begin: others reach it only if it is said who may, and by which name.

        Raises:
            SettingsError: With what is to be said.
            StorageError: The record cannot be used.
        """
        await anyio.to_thread.run_sync(self.links.open)
        settings = self._settings
        if is_loopback(settings.host):
            return
        missing: list[str] = []
        if not await self.access.required():
            missing.append(
                "Who may call is not said: make a key by `sdxl-lightning-mcp keys add NAME`, or "
                "set SDXL_LIGHTNING_OAUTH_ISSUER."
            )
        if not (settings.allowed_hosts or settings.public_url):
            missing.append(
                "By which names it is reached is not said: set --allowed-hosts or --public-url."
            )
        if missing:
            raise SettingsError(
                "\n".join([f"--host {settings.host} can be reached by others.", *missing])
            )

    def _ended(self, run: Run) -> None:
        """A run has ended: it is counted, logged, and told to whom it is owed."""
        self.metrics.ended(run)
        self.callbacks.ended(run)

    @asynccontextmanager
    async def serving(
        self, open_runner: Callable[[Callable[[Run], None]], AbstractAsyncContextManager[Runner]]
    ) -> AsyncGenerator[tuple[Site, ASGIApp]]:
        """What the faces share, and the application, which goes on with what was left unfinished.

        Args:
            open_runner: Opens the runner, given who is told of each run that has ended.
        """
        async with open_runner(self._ended) as runner:
            self.metrics.watch(runner, self._model)
            shared = SharedRunner(runner, self._settings)
            access, links = self.access, self.links
            site = Site(self._settings, self._model, shared, self._record, access, links)
            await self._resume(runner)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.callbacks.deliver)
                tasks.start_soon(self._prune)
                yield site, build(site, self.metrics, self.callbacks)
                tasks.cancel_scope.cancel()

    async def _resume(self, runner: Runner) -> None:
        """Gets ready, and goes on with what servers before this one left unfinished."""
        # Whoever starts a server wants it ready before the first client is.
        runner.wake()
        await anyio.to_thread.run_sync(self._record.store.sweep)
        runs = await anyio.to_thread.run_sync(self._record.claim)
        able = [run for run in runs if self._draws(run)]
        for run in (unable := [run for run in runs if run not in able]):
            text = f"The server was started anew with another model, {self._model.slug}."
            run.settle(Status.FAILED, RunFailedError(text))
        if unable:
            await anyio.to_thread.run_sync(self._record.end, unable)
        for run in able:
            run.notes.append("The server ended under this run; the next one drew it.")
        if runs:
            log.info("%d runs of a server before this one: %d go on", len(runs), len(able))
        await runner.take(able)

    async def _prune(self) -> None:
        """Keeps the record, and the pictures, within their limits, for ever."""
        settings = self._settings
        while True:
            try:
                await anyio.to_thread.run_sync(
                    self._record.prune,
                    settings.keep_runs,
                    settings.keep_days,
                    settings.keep_gigabytes * 1e9,
                )
            except StorageError:
                log.exception("old runs cannot be removed")
            await anyio.sleep(PRUNE_SECONDS)

    def _draws(self, run: Run) -> bool:
        wanted, model = run.parameters, self._model
        return (wanted.model, wanted.checkpoint) == (
            model.slug,
            model.checkpoint_for(wanted.steps).name,
        )
