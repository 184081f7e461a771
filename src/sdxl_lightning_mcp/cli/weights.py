"""pull, models: what there is, and getting it."""

import argparse
import sys
from collections.abc import Sequence

from sdxl_lightning_mcp import hub
from sdxl_lightning_mcp.catalogue import CATALOGUE, MIT, TAESDXL, VAE_FIX
from sdxl_lightning_mcp.checkpoint import WeightFile, license_notice, license_of
from sdxl_lightning_mcp.cli.terminal import bar, quiet_settings, read_settings
from sdxl_lightning_mcp.errors import SettingsError


def pull(parsed: argparse.Namespace) -> None:
    """Fetches what a model needs and checks all of it."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from sdxl_lightning_mcp.server import choose_model

    settings = quiet_settings(parsed)
    if settings.connect:
        raise SettingsError("pull: with --connect the weights are with the servers. Leave it out.")
    if parsed.name:
        settings = settings.model_copy(update={"model": parsed.name})
    model = choose_model(settings)
    files = model.checkpoint.all_files
    hub.remove_wrong([file for file in files if hub.locate(file)], lambda _: None)
    wanted = hub.missing(files)
    # Once for each licence: with the first file that comes under it.
    known = {license_of(file) for file in files if file not in wanted}
    for notice in license_notice(file for file in wanted if license_of(file) not in known):
        print(notice, file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with bar(*columns) as show:

        def tell(transfer: hub.Transfer) -> None:
            show(str(transfer), transfer.done, transfer.total)

        hub.fetch(files, tell, model.selector)
        hub.verify(files, tell, model.selector)
    amount = f"{len(wanted)} file{'s' * (len(wanted) != 1)} ({hub.gigabytes(hub.size(wanted))})"
    got = f"{amount} fetched" if wanted else "nothing to fetch"
    print(f"{model.checkpoint.name}: {got}, all {len(files)} files are here and right.")


def models(parsed: argparse.Namespace) -> None:
    """Every entry of the catalogue: what it is, its steps, its size, whether it is here."""
    read_settings(parsed)
    rows: list[tuple[str, ...]] = [("", "steps", "size", "to fetch", "licence")]
    for model in CATALOGUE.values():
        # The first sentence; with all of it mini's would hide the names.
        first = model.summary.partition(". ")[0].rstrip(".")
        rows.append((f"{model.slug}: {first}.",))
        rows += [
            _row(one.name, str(one.steps), one.all_files, one.license.name)
            for one in (*model.checkpoints, *model.variants)
        ]
    rows.append(("Parts that the models above share, and that are fetched with them:",))
    rows.append(_row("sdxl-vae-fp16-fix", "", VAE_FIX, MIT.name))
    rows.append(_row("taesdxl (--vae tiny)", "", TAESDXL, MIT.name))
    for row in rows:
        if len(row) == 1:
            print(f"\n{row[0]}")
        else:
            print("  {:<30}{:>5}  {:>9}  {:>9}  {}".format(*row))


def _row(name: str, steps: str, files: Sequence[WeightFile], license: str) -> tuple[str, ...]:
    absent = hub.missing(files)
    return (
        name,
        steps,
        hub.gigabytes(hub.size(files)),
        hub.gigabytes(hub.size(absent)) if absent else "on disk",
        license,
    )
