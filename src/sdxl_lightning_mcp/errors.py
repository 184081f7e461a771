"""Everything this project raises on purpose.

SdxlLightningError
├── InvalidRequestError    a field of a request cannot be met; says what can
├── SettingsError          the environment or a flag says something impossible
├── UnknownModelError      no model has that name
├── WeightsError           a weight file is missing, cut short, or not the one expected
├── DeviceMemoryError      a model does not fit into the device's memory
├── StorageError           the picture cannot be written
├── BusyError              a run is not taken in now; says when to come again
│   ├── QueueFullError     too many runs are waiting already
│   ├── RateLimitError     this caller has asked for too many in this minute
│   ├── KeyInUseError      the same request is being answered already
│   └── ClosingError       the server is about to end
├── UnreachableError       no other server can be had that would carry out a run
├── RunFailedError         a run was carried out and did not end in a picture
├── RunNotFoundError       no run has that id
│   └── RunElsewhereError  its region's server has it, and this is another
└── RunCanceledError       a run was stopped before it ended

Each face translates this tree once: MCP into a tool error's text, the command line into lines
on stderr and an exit code, REST into problem+json. A class's `code` is its name for programs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


class SdxlLightningError(Exception):
    """Base of all errors of this project; its text says what happened and what to do."""

    code: ClassVar[str] = "internal_error"


@dataclass(frozen=True)
class Problem:
    """One field that cannot be met: what came, what is allowed, and the nearest allowed values."""

    field: str
    got: str
    allowed: str
    nearest: tuple[str, ...] = ()

    def __str__(self) -> str:
        cure = f"; nearest: {' or '.join(self.nearest)}" if self.nearest else ""
        return f"{self.field}: got {self.got}; allowed: {self.allowed}{cure}"


class InvalidRequestError(SdxlLightningError, ValueError):
    """A request that cannot be met, with every field that stands in the way."""

    code = "invalid_request"

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class SettingsError(SdxlLightningError, ValueError):
    """A setting that does not exist or cannot have that value."""

    code = "invalid_settings"


class UnknownModelError(SdxlLightningError, LookupError):
    """No model of that name is known."""

    code = "model_not_found"


class WeightsError(SdxlLightningError):
    """A weight file is missing, cut short, or not the one expected."""

    code = "weights_unusable"


class DeviceMemoryError(SdxlLightningError):
    """A model does not fit into the device's memory."""

    code = "device_memory"


class StorageError(SdxlLightningError, OSError):
    """A picture cannot be written where it should be."""

    code = "storage_unwritable"


class BusyError(SdxlLightningError):
    """A run that is not taken in now, and may be in `seconds`."""

    code = "busy"

    def __init__(self, text: str, seconds: int = 1) -> None:
        super().__init__(text)
        self.seconds = seconds


class QueueFullError(BusyError):
    """As many runs as may wait are waiting already."""

    code = "queue_full"


class RateLimitError(BusyError):
    """This caller has asked for as many runs in this minute as it may."""

    code = "rate_limited"


class KeyInUseError(BusyError):
    """The first request with this idempotency key is still being answered."""

    code = "idempotency_key_in_use"


class ClosingError(BusyError):
    """The server finishes what it has and takes nothing in any more."""

    code = "closing"


class UnreachableError(SdxlLightningError):
    """None of the servers that are to carry out a run does so; says what each answered."""

    code = "servers_unreachable"


class RunFailedError(SdxlLightningError):
    """A run that did not end in a picture; the text is the reason."""

    code = "run_failed"


class RunNotFoundError(SdxlLightningError, LookupError):
    """No run has that id, as far as the caller may know."""

    code = "run_not_found"


class RunElsewhereError(RunNotFoundError):
    """The run is another region's, whose server has to be asked."""

    code = "run_elsewhere"


class RunCanceledError(SdxlLightningError):
    """A run that was stopped before it ended."""

    code = "run_canceled"


def named(code: str, text: str) -> SdxlLightningError:
    """The error that has this code, with this text; the base class where none has it."""
    kinds = {kind.code: kind for kind in _below(SdxlLightningError)}
    kind = kinds.get(code, SdxlLightningError)
    return SdxlLightningError(text) if kind is InvalidRequestError else kind(text)


def _below(kind: type[SdxlLightningError]) -> Iterator[type[SdxlLightningError]]:
    """All that stand under it in the tree."""
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
