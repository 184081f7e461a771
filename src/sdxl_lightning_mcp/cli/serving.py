"""(none), serve, keys: MCP over stdio, everything over HTTP, and who may use that."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import anyio

from sdxl_lightning_mcp.cli.terminal import read_settings, start_logging

if TYPE_CHECKING:
    from sdxl_lightning_mcp.keys import Keys


@contextmanager
def _stdout_kept_clean() -> Generator[None]:
    """What drivers and libraries print goes to stderr, also what they write without Python.

    From there on the SDK's transport sees to it.
    """
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def serve_stdio(parsed: argparse.Namespace) -> None:
    """Serves MCP over stdio until stdin ends."""
    from sdxl_lightning_mcp.server import choose_model, serve_stdio

    with _stdout_kept_clean():
        settings = read_settings(parsed)
        model = choose_model(settings)
    start_logging(settings)
    # A thread that waits for stdin keeps an orderly end from coming; the worker ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    anyio.run(serve_stdio, settings, model)


def serve_http(parsed: argparse.Namespace) -> None:
    """Serves all HTTP faces until a signal, on Ray where that is asked for."""
    from sdxl_lightning_mcp.faces.http.operation import JsonLines
    from sdxl_lightning_mcp.server import choose_model, serve_http

    settings = read_settings(parsed)
    model = choose_model(settings)
    start_logging(settings)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    if settings.ray:
        from sdxl_lightning_mcp.cluster.serving import serve_ray

        serve_ray(settings, model)
        return
    anyio.run(serve_http, settings, model)


def keys_add(parsed: argparse.Namespace) -> None:
    """Makes a key; it alone goes to stdout."""
    with _keys(parsed) as keys:
        key, text = keys.add(parsed.name)
    print(f"Key {key.id} of {key.name}; keep it, it is not shown again:", file=sys.stderr)
    print(text)


def keys_list(parsed: argparse.Namespace) -> None:
    """Prints a line for each key."""
    with _keys(parsed) as keys:
        for key in keys.all():
            ended = f"revoked {key.revoked:%Y-%m-%d}" if key.revoked else "valid"
            print(f"{key.id}  {key.created:%Y-%m-%d}  {ended:<18}  {key.name}")


def keys_revoke(parsed: argparse.Namespace) -> None:
    """Ends a key."""
    with _keys(parsed) as keys:
        key = keys.revoke(parsed.id)
    print(f"Key {key.id} of {key.name} is revoked.")


@contextmanager
def _keys(parsed: argparse.Namespace) -> Generator["Keys"]:
    from sdxl_lightning_mcp.database import Database
    from sdxl_lightning_mcp.keys import Keys

    with closing(Database(read_settings(parsed).data_dir)) as database:
        yield Keys(database)
