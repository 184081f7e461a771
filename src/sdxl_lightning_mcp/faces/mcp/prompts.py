"""Prompts for what takes several calls, or a way of asking that is not known to everyone."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from sdxl_lightning_mcp.errors import SdxlLightningError
from sdxl_lightning_mcp.faces.mcp.result import Context
from sdxl_lightning_mcp.faces.mcp.runs import Runs
from sdxl_lightning_mcp.faces.mcp.skills import Skill
from sdxl_lightning_mcp.faces.mcp.tools import TOOL

# What models of this family know well, to choose from; any other may be named.
STYLES = (
    "anime",
    "cinematic still",
    "digital painting",
    "film photograph",
    "flat illustration",
    "ink drawing",
    "isometric render",
    "oil painting",
    "pencil sketch",
    "studio photograph",
    "watercolour",
)
MOST_VARIATIONS = 8

Arguments = Mapping[str, str]


@dataclass(frozen=True)
class _Template:
    """A prompt, and how its text comes from its arguments."""

    prompt: Prompt
    text: Callable[[Context, Arguments], Awaitable[str]]


class Prompts:
    """Three prompts: a picture from an idea, variations of one, and a series that belongs together.

    Each tells in the words of `generate_image` what people else find out by trying.
    """

    def __init__(self, runs: Runs, skill: Skill) -> None:
        self._runs, self._skill = runs, skill
        templates = (
            _Template(
                _prompt(
                    "picture",
                    "Draw a picture",
                    "From an idea to a prompt that few-step models draw well, and its picture.",
                    _argument("subject", "What the picture is of.", required=True),
                    _argument("style", "How it is made, as oil painting or film photograph."),
                ),
                self._picture,
            ),
            _Template(
                _prompt(
                    "variations",
                    "Variations of a picture",
                    "The same wish with the next seeds, side by side with the first.",
                    _argument("run", "The id of the run whose picture it is.", required=True),
                    _argument("count", f"How many, 1 to {MOST_VARIATIONS}; 3 if left out."),
                ),
                self._variations,
            ),
            _Template(
                _prompt(
                    "series",
                    "A series in one style",
                    "Several pictures that look as if one hand had made them.",
                    _argument("scenes", "What each shows, with semicolons between.", required=True),
                    _argument("style", "What they share, as watercolour, muted colours."),
                ),
                self._series,
            ),
        )
        self._templates = {template.prompt.name: template for template in templates}

    async def list(self, _: Context, __: PaginatedRequestParams | None) -> ListPromptsResult:
        """Answers `prompts/list`."""
        return ListPromptsResult(prompts=[one.prompt for one in self._templates.values()])

    async def get(self, context: Context, params: GetPromptRequestParams) -> GetPromptResult:
        """Answers `prompts/get`."""
        template = self._templates.get(params.name)
        if template is None:
            known = ", ".join(self._templates)
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}; there are: {known}")
        given = {name: text.strip() for name, text in (params.arguments or {}).items()}
        allowed = template.prompt.arguments or []
        unknown = given.keys() - {argument.name for argument in allowed}
        needed = [one.name for one in allowed if one.required and not given.get(one.name)]
        if unknown or needed:
            wrong = [f"{name} is unknown" for name in sorted(unknown)]
            wrong += [f"{name} is needed" for name in needed]
            raise MCPError(INVALID_PARAMS, f"{params.name}: {', '.join(wrong)}")
        try:
            text = await template.text(context, given)
        except SdxlLightningError as error:
            raise MCPError(INVALID_PARAMS, str(error)) from None
        message = PromptMessage(role="user", content=TextContent(text=text))
        return GetPromptResult(description=template.prompt.description, messages=[message])

    async def _picture(self, _: Context, given: Arguments) -> str:
        style = given.get("style")
        in_style = f" in the style: {style}" if style else ", in a style that fits"
        return (
            f"Draw a picture of: {given['subject']}\n\n"
            f"Write one prompt for {TOOL}: the subject first, then the place, the light, the mood, "
            f"the point of view{in_style}; short phrases with commas between, no sentences, "
            "nothing about what should not be there. Call it with the prompt alone, or with one of "
            "the sizes it names where the subject is wide or tall. Look at the preview: if the "
            "subject is not what was asked for, change the prompt and try once more. Then show the "
            f"path of the file, and say the seed. More on it: {self._skill.uri}"
        )

    async def _variations(self, context: Context, given: Arguments) -> str:
        count = given.get("count") or "3"
        if not count.isdecimal() or not 1 <= int(count) <= MOST_VARIATIONS:
            raise MCPError(INVALID_PARAMS, f"count: got {count!r}; allowed: 1 to {MOST_VARIATIONS}")
        run = await self._runs.find(context, given["run"])
        first = run.parameters
        seeds = [str((first.seed + more) % 2**32) for more in range(1, int(count) + 1)]
        fields = {"prompt", "negative_prompt", "width", "height", "guidance", "steps"}
        kept = first.model_dump_json(include=fields)
        return (
            f"Draw variations of the picture of run {run.id}, whose seed was {first.seed}.\n\n"
            f"Call {TOOL} once for each of these seeds: {', '.join(seeds)}; all other arguments "
            f"stay as they were: {kept}\n\n"
            "Then say in a line for each what is different, with its seed and path, and ask which "
            "one to go on with."
        )

    async def _series(self, _: Context, given: Arguments) -> str:
        scenes = [scene.strip() for scene in given["scenes"].split(";") if scene.strip()]
        listed = "\n".join(f"{number}. {scene}" for number, scene in enumerate(scenes, start=1))
        style = given.get("style") or "one that fits all of them; decide on it first"
        return (
            f"Draw a series of {len(scenes)} pictures that belong together:\n{listed}\n\n"
            f"Style: {style}.\n\n"
            f"Call {TOOL} for the first one without a seed, and use the seed that the result names "
            "for all the others, at the same size. Each prompt is the scene, then the same words "
            "for style, colours and light, letter by letter, in the same order; whoever appears "
            "again is described in the same words again. Then list the paths in order."
        )


def _prompt(name: str, title: str, description: str, *arguments: PromptArgument) -> Prompt:
    return Prompt(name=name, title=title, description=description, arguments=[*arguments])


def _argument(name: str, description: str, *, required: bool = False) -> PromptArgument:
    return PromptArgument(name=name, description=description, required=required)
