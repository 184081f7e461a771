"""The command line: without a command it serves MCP over stdio."""

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import anyio

from sdxl_lightning_mcp import clients, hub
from sdxl_lightning_mcp.catalogue import CATALOGUE, MIT, TAESDXL, VAE_FIX
from sdxl_lightning_mcp.checkpoint import Model, WeightFile, license_notice, license_of
from sdxl_lightning_mcp.errors import (
    InvalidRequestError,
    SdxlLightningError,
    SettingsError,
    UnknownModelError,
)
from sdxl_lightning_mcp.request import GenerationRequest, read_request, resolve
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.selection import on_disk
from sdxl_lightning_mcp.settings import Settings

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from sdxl_lightning_mcp.keys import Keys

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
LINE_SECONDS = 10


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 failed, 2 asked wrongly, 130 interrupted."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except (InvalidRequestError, SettingsError, UnknownModelError) as error:
        _complain(error)
        sys.exit(MISUSED)
    except SdxlLightningError as error:
        _complain(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("sdxl-lightning-mcp: stopped; what was fetched is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _complain(error: SdxlLightningError) -> None:
    print(f"sdxl-lightning-mcp: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdxl-lightning-mcp",
        description="Pictures for agents. Without a command: an MCP server over stdio.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version("sdxl-lightning-mcp"))
    parser.set_defaults(command=_serve)
    _add_settings(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    generate = commands.add_parser(
        "generate",
        help="make a picture from a prompt",
        epilog="A prompt that begins with a dash goes after two: generate -- '-a prompt'.",
        allow_abbrev=False,
    )
    for name, field in GenerationRequest.model_fields.items():
        flag = name if name == "prompt" else f"--{name.replace('_', '-')}"
        # Values stay text here: the request reads and checks them as it does for every face.
        generate.add_argument(flag, help=field.description)
    generate.add_argument("--json", action="store_true", help="print one JSON object")
    _add_settings(generate)
    generate.set_defaults(command=_generate)

    pull = commands.add_parser(
        "pull", help="fetch a model's weights before they are needed", allow_abbrev=False
    )
    pull.add_argument(
        "name", nargs="?", metavar="MODEL", help="a name that `models` lists; else the setting's"
    )
    _add_settings(pull)
    pull.set_defaults(command=_pull)

    models = commands.add_parser("models", help="list the models there are")
    models.set_defaults(command=_models)

    install = commands.add_parser(
        "install",
        help="enter it into an MCP client's settings",
        description="Flags are entered too: the client starts the server with them.",
        allow_abbrev=False,
    )
    install.add_argument(
        "client",
        nargs="?",
        choices=clients.NAMES,
        metavar="CLIENT",
        help=f"one of {', '.join(clients.NAMES)}",
    )
    install.add_argument("--print", action="store_true", help="only show what would be entered")
    _add_settings(install)
    install.set_defaults(command=_install)

    doctor = commands.add_parser("doctor", help="say what is there, what is missing, the cure")
    _add_settings(doctor)
    doctor.set_defaults(command=_doctor)

    serve = commands.add_parser(
        "serve", help="serve MCP, a runs API and OpenAI's images API over HTTP", allow_abbrev=False
    )
    _add_settings(serve, (*FLAGS, *SERVE_FLAGS))
    serve.set_defaults(command=_serve_http)

    _add_keys(commands.add_parser("keys", help="make, list and revoke the API keys of serve"))

    _add_bench(commands.add_parser("bench", help="measure how fast it is", allow_abbrev=False))
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.description = "Measures speed and memory on this machine; nothing else should run."
    add = bench.add_argument
    add("--pictures", type=int, metavar="N", help="pictures for one client; 100, unless said")
    add("--quick", action="store_true", help="few and small ones, only to see that it works")
    add("--against", choices=["diffusers"], help="also the plain pipeline, on the same weights")
    add("--weights", choices=["random"], help="SDXL-Lightning's size with nothing to download")
    add("--hourly-price", type=float, metavar="PRICE", help="of this machine, in dollars")
    add("--json", type=Path, metavar="FILE", help="also write all figures there")
    add("--plot", type=Path, metavar="FILE", help="also draw speed by number of clients, as PNG")
    _add_settings(bench)
    bench.set_defaults(command=_bench)


def _add_keys(keys: argparse.ArgumentParser) -> None:
    verbs = keys.add_subparsers(metavar="VERB", required=True)
    add = verbs.add_parser("add", help="make a key; it is printed once and never again")
    add.add_argument("name", metavar="NAME", help="whose it is, for your own list")
    add.set_defaults(command=_keys_add)
    verbs.add_parser("list", help="every key there is or was").set_defaults(command=_keys_list)
    revoke = verbs.add_parser("revoke", help="end a key, at once")
    revoke.add_argument("id", metavar="ID", help="as `keys list` shows it")
    revoke.set_defaults(command=_keys_revoke)
    for parser in (keys, *verbs.choices.values()):
        _add_settings(parser, ("data_dir",))


FLAGS = ("model", "lora", "vae", "device", "output_dir", "data_dir")
SERVE_FLAGS = ("host", "port", "public_url", "allowed_hosts", "allowed_origins", "max_queue")


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str] = FLAGS) -> None:
    # SUPPRESS lets a flag stand before or after the command without undoing the other.
    for name in names:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            action="append" if name == "lora" else "store",
            default=argparse.SUPPRESS,
            help=Settings.model_fields[name].description,
        )


def _settings(parsed: argparse.Namespace) -> Settings:
    given = vars(parsed)
    return Settings.load(**{name: given.get(name) for name in (*FLAGS, *SERVE_FLAGS)})


def _quiet_settings(parsed: argparse.Namespace) -> Settings:
    """For commands that speak for themselves: the log tells of trouble only, unless asked for."""
    settings = _settings(parsed)
    if "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "warning"})
    _start_logging(settings)
    return settings


def _start_logging(settings: Settings) -> None:
    # Never on stdout: under stdio it carries JSON-RPC and nothing else.
    logging.basicConfig(
        level=settings.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(message)s"
    )


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


def _serve(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.server import choose_model, serve_stdio

    with _stdout_kept_clean():
        settings = _settings(parsed)
        model = choose_model(settings)
    _start_logging(settings)
    # A thread that waits for stdin keeps an orderly end from coming; the worker ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    anyio.run(serve_stdio, settings, model)


def _serve_http(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.faces.http.operation import JsonLines
    from sdxl_lightning_mcp.server import choose_model, serve_http

    settings = _settings(parsed)
    model = choose_model(settings)
    _start_logging(settings)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    anyio.run(serve_http, settings, model)


def _keys_add(parsed: argparse.Namespace) -> None:
    with _keys(parsed) as keys:
        key, text = keys.add(parsed.name)
    print(f"Key {key.id} of {key.name}; keep it, it is not shown again:", file=sys.stderr)
    print(text)


def _keys_list(parsed: argparse.Namespace) -> None:
    with _keys(parsed) as keys:
        for key in keys.all():
            ended = f"revoked {key.revoked:%Y-%m-%d}" if key.revoked else "valid"
            print(f"{key.id}  {key.created:%Y-%m-%d}  {ended:<18}  {key.name}")


def _keys_revoke(parsed: argparse.Namespace) -> None:
    with _keys(parsed) as keys:
        key = keys.revoke(parsed.id)
    print(f"Key {key.id} of {key.name} is revoked.")


@contextmanager
def _keys(parsed: argparse.Namespace) -> Generator["Keys"]:
    from sdxl_lightning_mcp.database import Database
    from sdxl_lightning_mcp.keys import Keys

    with closing(Database(_settings(parsed).data_dir)) as database:
        yield Keys(database)


def _generate(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.server import choose_model

    settings = _quiet_settings(parsed)
    wish = {name: getattr(parsed, name) for name in GenerationRequest.model_fields}
    model = choose_model(settings)
    request = read_request({k: v for k, v in wish.items() if v is not None}, model)
    run = anyio.run(_make_picture, settings, model, request)
    if parsed.json:
        print(json.dumps(run.facts))
        return
    print(run.path)


async def _make_picture(settings: Settings, model: Model, request: GenerationRequest) -> Run:
    """Makes one picture, and tells on stderr what is to be noted and how far it is."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    from sdxl_lightning_mcp.server import choose_devices, open_runner

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # One picture is drawn on one device; the others need not load for it.
    devices = choose_devices(settings)[:1]
    with _bar(*columns) as show:
        async with open_runner(settings, model, devices) as runner:
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


@contextmanager
def _bar(*columns: "ProgressColumn") -> Generator[Callable[[str, float, float | None], None]]:
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


def _pull(parsed: argparse.Namespace) -> None:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from sdxl_lightning_mcp.server import choose_model

    settings = _quiet_settings(parsed)
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
    with _bar(*columns) as show:

        def tell(transfer: hub.Transfer) -> None:
            show(str(transfer), transfer.done, transfer.total)

        hub.fetch(files, tell, model.selector)
        hub.verify(files, tell, model.selector)
    amount = f"{len(wanted)} file{'s' * (len(wanted) != 1)} ({hub.gigabytes(hub.size(wanted))})"
    got = f"{amount} fetched" if wanted else "nothing to fetch"
    print(f"{model.checkpoint.name}: {got}, all {len(files)} files are here and right.")


def _models(_: argparse.Namespace) -> None:
    """Every entry of the catalogue: what it is, its steps, its size, whether it is here."""
    rows: list[tuple[str, ...]] = [("", "steps", "size", "to fetch", "licence")]
    for model in CATALOGUE.values():
        rows.append((f"{model.slug}: {model.summary}",))
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


def _doctor(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.doctor import examine

    if not anyio.run(examine, _quiet_settings(parsed)):
        sys.exit(FAILED)


def _install(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.install import install

    flags = {name: value for name, value in vars(parsed).items() if name in FLAGS}
    print(install(parsed.client, flags, only_print=parsed.print))


def _bench(parsed: argparse.Namespace) -> None:
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
    print(bench(_quiet_settings(parsed), wish))
