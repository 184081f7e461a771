"""What the environment and the flags say; the only reader of the environment."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.settings import PREFIX, Settings, Speed

# What torch and its libraries read, and what says where the hub's files are. The one that is left
# out torch sets itself.
ENGINE = re.compile(
    r"(CUDA|NVIDIA|PYTORCH|TORCH[A-Z]*|OMP|MKL|KMP|DNNL|ONEDNN|OPENBLAS)_(?!CACHE_DIR$)"
    r"|(HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|HF_ENDPOINT|XDG_CACHE_HOME)$"
)
# What is no concern of a server whose runs others carry out.
ELSEWHERE = (
    "lora",
    "vae",
    "speed",
    "device",
    "max_batch",
    "idle_minutes",
    "engine_idle_minutes",
    "ray",
)


def load_settings(environment: Mapping[str, str] | None = None, **flags: object) -> Settings:
    """Reads the settings; `flags` that are not None win over the environment.

    Raises:
        SettingsError: A variable of ours that does not exist, or an impossible value.
    """
    found = os.environ if environment is None else environment
    values: dict[str, object] = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in found.items()
        if name.startswith(PREFIX) and value != ""
    }
    flags = {name: value for name, value in flags.items() if value not in (None, "", [])}
    values |= flags
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        lines = [
            _explain(str(problem["loc"][0]), problem["msg"], problem["input"], flags)
            for problem in error.errors(include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    _check_together(settings)
    return settings


def environment_with(settings: Settings) -> dict[str, str]:
    """This process's environment with these settings in it, for a process that shall have them."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    said = {
        PREFIX + name.upper(): ",".join(cast(tuple[str, ...], value))
        if isinstance(value, tuple)
        else str(value)
        for name, value in settings.model_dump().items()
        if value is not None
    }
    return found | said


def visible_gpus() -> str | None:
    """CUDA_VISIBLE_DEVICES, which says to torch which GPUs there are; None where it is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def engine_environment() -> dict[str, str]:
    """The variables that change what an engine draws, or where, or from which files."""
    return {name: os.environ[name] for name in sorted(os.environ) if ENGINE.match(name)}


def claude_code_folder() -> Path | None:
    """CLAUDE_CONFIG_DIR, where a person keeps the settings of Claude Code; None if not set."""
    given = os.environ.get("CLAUDE_CONFIG_DIR")
    return Path(given) if given else None


def _check_together(settings: Settings) -> None:
    """Raises SettingsError where two settings exclude each other."""
    if settings.speed is Speed.EXACT and (settings.max_batch or 1) > 1:
        raise SettingsError(
            f"speed: exact computes every picture alone, and {PREFIX}MAX_BATCH asks for "
            f"{settings.max_batch} together. Leave one of the two out."
        )
    for name in ELSEWHERE if settings.connect else ():
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise SettingsError(
                f"{name}: with --connect the servers there decide that. Set it where they are "
                f"started, or leave out --connect and {PREFIX}CONNECT."
            )


def _explain(name: str, message: str, value: object, flags: Mapping[str, object]) -> str:
    variable = PREFIX + name.upper()
    if name in Settings.model_fields:
        said = f"--{name.replace('_', '-')}" if name in flags else variable
        return f"{said}: got {value!r}; {message[0].lower()}{message[1:]}."
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    cure = f" Did you mean {PREFIX}{close[0].upper()}?" if close else ""
    known = ", ".join(PREFIX + field.upper() for field in Settings.model_fields)
    return f"{variable} is no setting.{cure} There are: {known}."
