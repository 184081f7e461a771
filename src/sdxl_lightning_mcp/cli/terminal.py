"""What commands share: exit codes, settings from flags, the log, a bar that shows how far it is."""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdxl_lightning_mcp.environment import load_settings
from sdxl_lightning_mcp.settings import Settings

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
LINE_SECONDS = 10
FLAGS = ("model", "lora", "vae", "speed", "device", "connect", "output_dir", "data_dir")
# Of commands that may draw with an engine that servers over stdio share.
SHARING_FLAGS = (*FLAGS, "private")
SERVE_FLAGS = (
    "host",
    "port",
    "public_url",
    "region",
    "allowed_hosts",
    "allowed_origins",
    "max_queue",
    "ray",
)


def read_settings(parsed: argparse.Namespace) -> Settings:
    """The settings that flags and environment say. Raises SettingsError."""
    given = vars(parsed)
    return load_settings(**{name: given.get(name) for name in (*SHARING_FLAGS, *SERVE_FLAGS)})


def quiet_settings(parsed: argparse.Namespace) -> Settings:
    """For commands that speak for themselves: the log tells of trouble only, unless asked for."""
    settings = read_settings(parsed)
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "warning"})
    start_logging(settings)
    return settings


def start_logging(settings: Settings) -> None:
    """Logs to stderr from now on."""
    # Never on stdout: under stdio it carries JSON-RPC and nothing else.
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(message)s"
    )


@contextmanager
def bar(*columns: "ProgressColumn") -> Generator[Callable[[str, float, float | None], None]]:
    """A bar on stderr: is told what is done, how much, and of how much.

    Where stderr is no terminal, a line now and then.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            )
        return
    told = time.monotonic()

    def line(what: str, _: float, __: float | None) -> None:
        nonlocal told
        if time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            print(what, file=sys.stderr, flush=True)

    yield line
