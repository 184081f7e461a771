"""doctor, install, bench: this machine, its clients, its speed."""

import argparse
import sys

import anyio

from sdxl_lightning_mcp.cli.terminal import FAILED, SHARING_FLAGS, quiet_settings
from sdxl_lightning_mcp.errors import SettingsError


def doctor(parsed: argparse.Namespace) -> None:
    """Examines this machine; it failed where something is missing."""
    from sdxl_lightning_mcp.doctor import examine

    if not anyio.run(examine, quiet_settings(parsed)):
        sys.exit(FAILED)


def install(parsed: argparse.Namespace) -> None:
    """Enters the server into a client's settings, or prints what to enter."""
    from sdxl_lightning_mcp.install import install

    flags = {name: value for name, value in vars(parsed).items() if name in SHARING_FLAGS}
    print(install(parsed.client, flags, only_print=parsed.print))


def bench(parsed: argparse.Namespace) -> None:
    """Measures, and prints the report. Raises SettingsError for flags that exclude each other."""
    from sdxl_lightning_mcp.bench.command import Wish, bench

    if parsed.weights and "model" in parsed:
        raise SettingsError("--weights random is a model of its own: leave --model out.")
    wish = Wish(
        pictures=parsed.pictures,
        quick=parsed.quick,
        random=parsed.weights == "random",
        against_diffusers=parsed.against == "diffusers",
        price=parsed.hourly_price,
        json=parsed.json,
        plot=parsed.plot,
    )
    print(bench(quiet_settings(parsed), wish))
