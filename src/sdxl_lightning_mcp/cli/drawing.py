"""generate: one picture from a prompt."""

import argparse
import json
import sys
from collections.abc import Sequence

import anyio

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.cli.terminal import bar, quiet_settings
from sdxl_lightning_mcp.request import GenerationRequest, read_request, resolve
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.selection import on_disk
from sdxl_lightning_mcp.settings import Settings


def generate(parsed: argparse.Namespace) -> None:
    """Makes a picture and prints its path, or its facts as JSON."""
    from sdxl_lightning_mcp.server import choose_model

    settings = quiet_settings(parsed)
    wish = {name: getattr(parsed, name) for name in GenerationRequest.model_fields}
    model = choose_model(settings)
    request = read_request({k: v for k, v in wish.items() if v is not None}, model)
    run = anyio.run(_make_picture, settings, model, request)
    if parsed.json:
        print(json.dumps(run.facts))
        return
    print(f"Seed {run.parameters.seed}", file=sys.stderr)
    print(run.path)


async def _make_picture(settings: Settings, model: Model, request: GenerationRequest) -> Run:
    """Makes one picture, and tells on stderr what is to be noted and how far it is."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    from sdxl_lightning_mcp.server import choose_devices, open_runner, shared_worker

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # One picture is drawn on one device; the others need not load for it.
    devices = None if settings.connect else choose_devices(settings)[:1]
    with bar(*columns) as show:
        # What runs already draws at once; what does not is not left behind for one picture.
        start = shared_worker(settings, lasting=False)
        async with open_runner(settings, model, devices, start=start) as runner:
            parameters, notes = resolve(request, on_disk(model))
            run = await runner.submit(parameters, notes)
            # Gigabytes and their licence are spoken of before they come, not after.
            said = _print_notes(run.notes)
            async for progress in run.updates():
                total = progress.total if progress.done else None
                show(progress.message, progress.done, total)
            await run.finished()
    _print_notes(run.notes[said:])
    return run


def _print_notes(notes: Sequence[str]) -> int:
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
    return len(notes)
