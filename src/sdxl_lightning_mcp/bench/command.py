"""The command `bench`: what was asked for is checked, measured and told."""

import math
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import anyio

from sdxl_lightning_mcp.bench.clients import Bench
from sdxl_lightning_mcp.bench.measure import measure, measure_server
from sdxl_lightning_mcp.bench.plan import Plan
from sdxl_lightning_mcp.bench.plot import plot
from sdxl_lightning_mcp.bench.random_weights import random_weights
from sdxl_lightning_mcp.bench.report import Report, this_machine, write
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SdxlLightningError, SettingsError, WeightsError
from sdxl_lightning_mcp.hub import gigabytes, missing, size
from sdxl_lightning_mcp.server import choose_model
from sdxl_lightning_mcp.settings import Settings

# More than ever wait here: what is measured is how long they do.
QUEUE = 10_000
# Of pictures; with fewer no growth of memory can be told from chance.
FEWEST, MOST = 4, 100_000


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the person asks the benchmark for; None where they leave it to it."""

    pictures: int | None = None
    quick: bool = False
    random: bool = False
    against_diffusers: bool = False
    price: float | None = None
    json: Path | None = None
    plot: Path | None = None


def bench(settings: Settings, wish: Wish) -> Report:
    """Measures what is asked for and writes the files that are asked for.

    What is being measured is told on stderr. Pictures go where the settings say, else they are
    thrown away.

    Raises:
        SettingsError, WeightsError: Something stands in the way; nothing was done.
        SdxlLightningError: A picture failed.
    """
    _check(wish)
    _check_server(settings, wish)
    if wish.random:
        settings = settings.model_copy(update={"model": str(random_weights(_tell))})
    model = choose_model(settings)
    plan = Plan.of(
        model,
        pictures=wish.pictures,
        quick=wish.quick,
        against_diffusers=wish.against_diffusers,
        price=wish.price,
    )
    _check_weights(model)
    asked = f"{model.checkpoint.name}, {plan.side}x{plan.side}, {model.default_steps} steps"
    report = Report({**this_machine(), "pictures": asked})
    with tempfile.TemporaryDirectory(prefix="sdxl-lightning-bench-") as folder:
        place = {
            "output_dir": settings.output_dir or Path(folder),
            "data_dir": Path(folder),
            "max_queue": QUEUE,
        }
        settings = settings.model_copy(update=place)
        try:
            way = measure_server if settings.connect else measure
            anyio.run(way, Bench(settings, model, plan, report, _tell))
        except BaseExceptionGroup as group:
            raise _first(group) from group
    if wish.json is not None:
        write(wish.json, report.as_json().encode())
    if wish.plot is not None:
        write(wish.plot, plot(report.loads, f"{asked}, {report.machine['device']}"))
    return report


def _check(wish: Wish) -> None:
    """Refuses before the work what makes no sense, or could not be written after it."""
    if wish.pictures is not None and not FEWEST <= wish.pictures <= MOST:
        raise SettingsError(f"--pictures: got {wish.pictures}; allowed: {FEWEST} to {MOST}.")
    if wish.price is not None and not 0 < wish.price < math.inf:
        raise SettingsError(f"--hourly-price: got {wish.price:g}; allowed: a price above 0.")
    for flag, target, suffix in (("json", wish.json, ".json"), ("plot", wish.plot, ".png")):
        if target is None:
            continue
        if target.suffix.lower() != suffix:
            raise SettingsError(f"--{flag}: got {target}; name it {target.with_suffix(suffix)}.")
        folder = target.absolute().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or target.is_dir():
            raise SettingsError(f"--{flag}: {target} cannot be written there; name another place.")


def _check_server(settings: Settings, wish: Wish) -> None:
    """Refuses what cannot be measured of a server that runs elsewhere."""
    if len(settings.connect) > 1:
        raise SettingsError("--connect: one server is measured at a time; name one.")
    if settings.connect and (wish.random or wish.against_diffusers):
        raise SettingsError(
            "--connect measures a server as it is: leave --weights and --against out."
        )


def _check_weights(model: Model) -> None:
    if absent := missing(model.checkpoint.all_files):
        raise WeightsError(
            f"{model.checkpoint.name} has {gigabytes(size(absent))} to fetch first: "
            f"sdxl-lightning-mcp pull {model.selector}. Or measure SDXL's size without fetching: "
            "--weights random."
        )


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of those that ended tasks together; one of ours, if there is any."""
    ours = group.subgroup(SdxlLightningError)
    found: BaseException = ours or group
    while isinstance(found, BaseExceptionGroup):
        found = cast(BaseExceptionGroup[BaseException], found).exceptions[0]
    return found
