"""What may be typed: the commands, their flags, and where each leads."""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from sdxl_lightning_mcp import clients
from sdxl_lightning_mcp.cli import drawing, machine, serving, weights
from sdxl_lightning_mcp.cli.terminal import FLAGS, SERVE_FLAGS, SHARING_FLAGS
from sdxl_lightning_mcp.request import GenerationRequest
from sdxl_lightning_mcp.settings import LOCAL, Settings


def build_parser() -> argparse.ArgumentParser:
    """The parser; `command` of what it parses is the function to call."""
    parser = argparse.ArgumentParser(
        prog="sdxl-lightning-mcp",
        description="Pictures for agents. Without a command: an MCP server over stdio.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version("sdxl-lightning-mcp"))
    parser.set_defaults(command=serving.serve_stdio)
    _add_settings(parser, SHARING_FLAGS)
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
    _add_settings(generate, SHARING_FLAGS)
    generate.set_defaults(command=drawing.generate)

    pull = commands.add_parser(
        "pull", help="fetch a model's weights before they are needed", allow_abbrev=False
    )
    pull.add_argument(
        "name", nargs="?", metavar="MODEL", help="a name that `models` lists; else the setting's"
    )
    _add_settings(pull)
    pull.set_defaults(command=weights.pull)

    models = commands.add_parser("models", help="list the models there are")
    models.set_defaults(command=weights.models)

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
    _add_settings(install, SHARING_FLAGS)
    install.set_defaults(command=machine.install)

    doctor = commands.add_parser("doctor", help="say what is there, what is missing, the cure")
    _add_settings(doctor, SHARING_FLAGS)
    doctor.set_defaults(command=machine.doctor)

    serve = commands.add_parser(
        "serve", help="serve MCP, a runs API and OpenAI's images API over HTTP", allow_abbrev=False
    )
    _add_settings(serve, (*FLAGS, *SERVE_FLAGS))
    serve.set_defaults(command=serving.serve_http)

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
    bench.set_defaults(command=machine.bench)


def _add_keys(keys: argparse.ArgumentParser) -> None:
    verbs = keys.add_subparsers(metavar="VERB", required=True)
    add = verbs.add_parser("add", help="make a key; it is printed once and never again")
    add.add_argument("name", metavar="NAME", help="whose it is, for your own list")
    add.set_defaults(command=serving.keys_add)
    verbs.add_parser("list", help="every key there is or was").set_defaults(
        command=serving.keys_list
    )
    revoke = verbs.add_parser("revoke", help="end a key, at once")
    revoke.add_argument("id", metavar="ID", help="as `keys list` shows it")
    revoke.set_defaults(command=serving.keys_revoke)
    for parser in (keys, *verbs.choices.values()):
        _add_settings(parser, ("data_dir",))


def _add_settings(parser: argparse.ArgumentParser, names: Sequence[str] = FLAGS) -> None:
    # SUPPRESS lets a flag stand before or after the command without undoing the other.
    for name in names:
        flag, help = f"--{name.replace('_', '-')}", Settings.model_fields[name].description
        if name == "ray":
            parser.add_argument(
                flag,
                nargs="?",
                const=LOCAL,
                default=argparse.SUPPRESS,
                metavar="ADDRESS",
                help=help,
            )
            continue
        parser.add_argument(
            flag,
            action=_action(name),
            default=argparse.SUPPRESS,
            help=help,
        )


def _action(name: str) -> str:
    """What argparse does with a setting's flag: lists come word by word, switches without one."""
    if Settings.model_fields[name].annotation is bool:
        return "store_true"
    return "append" if name == "lora" else "store"
