"""The command line: one command runs, and its errors become lines and an exit code."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from sdxl_lightning_mcp.cli.parser import build_parser
from sdxl_lightning_mcp.cli.terminal import DONE, FAILED, INTERRUPTED, MISUSED
from sdxl_lightning_mcp.errors import (
    InvalidRequestError,
    SdxlLightningError,
    SettingsError,
    UnknownModelError,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0 done, 1 failed, 2 asked wrongly, 130 interrupted."""
    parsed = build_parser().parse_args(arguments)
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
    sys.exit(DONE)


def _complain(error: SdxlLightningError) -> None:
    print(f"sdxl-lightning-mcp: {error}", file=sys.stderr)
