"""What runs in a replica on a Ray cluster: one device, whose pictures go to whoever asked."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import anyio

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.devices import Device, find_devices
from sdxl_lightning_mcp.environment import visible_gpus
from sdxl_lightning_mcp.errors import RunFailedError, SdxlLightningError
from sdxl_lightning_mcp.hardware import accelerators
from sdxl_lightning_mcp.image import GeneratedImage
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Finished, Run, Status
from sdxl_lightning_mcp.runners.base import DeviceStatus
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.runners.supervisor import Supervisor
from sdxl_lightning_mcp.store import Store


@dataclass(frozen=True)
class Told:
    """How a run stands on its replica; at the end, with its picture or the reason there is none."""

    status: Status
    attempts: int
    step: int
    loaded: float
    message: str
    notes: tuple[str, ...]
    image: GeneratedImage | None
    error: SdxlLightningError | None


class Replica:
    """One device of the cluster.

    It counts as started once its device is ready, so that no run waits here for weights while
    another device is free; or once it is said why it is not, or that weights are being fetched,
    which takes so long that those who wait are told how far it is.

    Args:
        model: What is served.
        device: cuda is the GPU that Ray gives this replica; else cpu, mps or auto.
        options: As those of `LocalRunner.open`.

    Raises:
        SettingsError: There is no such device here.
    """

    async def __init__(self, model: Model, device: str, **options: Any) -> None:  # type: ignore[misc]
        self._model, self._kind, self._options = model, device, options
        self._runner: _HandingRunner | None = None
        settled = anyio.Event()
        # A task of its own: what it opens is also closed in it.
        self._life = asyncio.create_task(self._live(settled))
        await settled.wait()
        if self._runner is None:
            await self._life  # which raises why

    async def _live(self, settled: anyio.Event) -> None:
        device = Device(self._kind)
        try:
            if self._kind == "cuda":
                device = find_devices("cuda", accelerators(visible_gpus()))[0]
            async with _HandingRunner.open(
                self._model, Store(), devices=[device], ended=_nothing, **self._options
            ) as runner:
                assert isinstance(runner, _HandingRunner)
                self._runner = runner
                runner.wake()
                await runner.settled.wait()
                settled.set()
                await anyio.sleep_forever()
        finally:
            settled.set()

    async def check_health(self) -> None:
        """Raises where no run can be carried out here any more, and a new replica is needed."""
        if self._life.done():
            raise RunFailedError("The replica's runner has ended.")

    async def status(self) -> DeviceStatus:
        """What the device is doing."""
        assert self._runner is not None
        return self._runner.status().devices[0]

    async def draw(self, run_id: str, parameters: Parameters) -> AsyncGenerator[Told]:
        """Carries out a run and tells how it goes; given up, the device lets go of it."""
        assert self._runner is not None
        run = Run(parameters, [], id=run_id)
        await self._runner.take([run])
        try:
            async for _ in run.updates():
                yield Told(
                    run.status,
                    run.attempts,
                    run.step,
                    run.loaded,
                    run.message,
                    tuple(run.notes),
                    run.image,
                    run.error,
                )
        finally:
            with anyio.CancelScope(shield=True):
                await self._runner.cancel(run)


class _HandingRunner(LocalRunner):
    """Hands pictures over instead of keeping them: they are kept where they were asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.settled = anyio.Event()

    async def _device_changed(self, device: Supervisor) -> None:
        await super()._device_changed(device)
        if device.capacity or device.refusal or self._fetch_notes:
            self.settled.set()

    async def _keep(self, run: Run, finished: Finished) -> None:
        run.image = finished.image
        run.settle(Status.SUCCEEDED)
        await self._told([run])


def _nothing(run: Run) -> None:
    """The end of a run is logged where it was asked for."""
