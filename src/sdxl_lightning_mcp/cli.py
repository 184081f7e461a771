"""The command line: without a command it serves MCP over stdio."""

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import anyio

from sdxl_lightning_mcp.catalogue import CATALOGUE, find
from sdxl_lightning_mcp.errors import (
    InvalidRequestError,
    SdxlLightningError,
    SettingsError,
    UnknownModelError,
)
from sdxl_lightning_mcp.request import GenerationRequest, read_request, resolve
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.settings import Settings

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


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

    models = commands.add_parser("models", help="list the models there are")
    models.set_defaults(command=_models)

    doctor = commands.add_parser("doctor", help="say what is there, what is missing, the cure")
    _add_settings(doctor)
    doctor.set_defaults(command=_doctor)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS lets a flag stand before or after the command without undoing the other.
    for name in ("model", "output_dir"):
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            help=Settings.model_fields[name].description,
        )


def _settings(parsed: argparse.Namespace) -> Settings:
    given = vars(parsed)
    return Settings.load(**{name: given.get(name) for name in ("model", "output_dir")})


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


def _serve(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.server import serve_stdio

    settings = _settings(parsed)
    find(settings.model)
    _start_logging(settings)
    # A thread that waits for stdin keeps an orderly end from coming; the worker ends by itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    anyio.run(serve_stdio, settings)


def _generate(parsed: argparse.Namespace) -> None:
    settings = _quiet_settings(parsed)
    wish = {name: getattr(parsed, name) for name in GenerationRequest.model_fields}
    model = find(settings.model)
    request = read_request({k: v for k, v in wish.items() if v is not None}, model)
    run = anyio.run(_make_picture, settings, request)
    if parsed.json:
        print(json.dumps(run.facts))
        return
    for note in run.notes:
        print(f"Note: {note}", file=sys.stderr)
    print(run.path)


async def _make_picture(settings: Settings, request: GenerationRequest) -> Run:
    """Makes one picture; on a terminal a bar on stderr shows how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sdxl_lightning_mcp.server import open_runner

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        async with open_runner(settings) as (runner, model):
            parameters, notes = resolve(request, model)
            run = await runner.submit(parameters, notes)
            task = bar.add_task("starting", total=None)
            async for progress in run.updates():
                total = progress.total if run.started is not None else None
                bar.update(task, completed=progress.done, total=total, description=progress.message)
            await run.finished()
    return run


def _models(_: argparse.Namespace) -> None:
    for model in CATALOGUE.values():
        size = sum(file.bytes for file in model.checkpoint.files) / 1e6
        print(f"{model.slug}  {model.native_size}x{model.native_size}, {size:.1f} MB")
        print(f"  {model.summary}")
        print(
            f"  steps {model.default_steps} ({model.steps}), "
            f"guidance {model.default_guidance:g} ({model.guidance}), {model.checkpoint.license}"
        )


def _doctor(parsed: argparse.Namespace) -> None:
    from sdxl_lightning_mcp.doctor import examine

    if not anyio.run(examine, _quiet_settings(parsed)):
        sys.exit(FAILED)
