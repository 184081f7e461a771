"""Completion: ids of runs, and the words that prompts take."""

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    PromptReference,
)

from sdxl_lightning_mcp.faces.mcp.prompts import MOST_VARIATIONS, STYLES
from sdxl_lightning_mcp.faces.mcp.resources import TEMPLATES
from sdxl_lightning_mcp.faces.mcp.result import Context
from sdxl_lightning_mcp.faces.mcp.runs import Runs

# The protocol allows no more values in one answer.
MOST = 100

_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("picture", "style"): STYLES,
    ("series", "style"): STYLES,
    ("variations", "count"): tuple(str(count) for count in range(1, MOST_VARIATIONS + 1)),
}
_RUN_IDS = {("variations", "run"), *((template, "id") for template in TEMPLATES)}


class Completions:
    """What an argument of a prompt or of a resource template may be."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def complete(self, context: Context, params: CompleteRequestParams) -> CompleteResult:
        """Answers `completion/complete`: the values that go on as the text begins."""
        ref, begun = params.ref, params.argument.value
        where = (ref.name if isinstance(ref, PromptReference) else ref.uri, params.argument.name)
        if where in _RUN_IDS:
            values = [run.id for run in await self._runs.latest(context, MOST)]
        elif where[0] in _KNOWN:
            values = [*_WORDS.get(where, ())]
        else:
            raise MCPError(INVALID_PARAMS, f"Nothing is known of {where[0]}")
        fitting = [value for value in values if value.startswith(begun.lower())]
        return CompleteResult(
            completion=Completion(values=fitting, total=len(fitting), has_more=False)
        )


_KNOWN = {name for name, _ in (*_WORDS, *_RUN_IDS)}
