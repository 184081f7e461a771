"""From the wish to the facts: `GenerationRequest` -> `resolve` -> `Parameters`."""

import difflib
import math
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sdxl_lightning_mcp.catalogue import CATALOGUE
from sdxl_lightning_mcp.checkpoint import SEED, SIDE, Model, Range
from sdxl_lightning_mcp.errors import InvalidRequestError, Problem

PROMPT_LIMIT = 2000


def _no_bool(value: object) -> object:
    # True is an int to Python; a caller who sends it means something else.
    if isinstance(value, bool):
        raise ValueError("a number is wanted")
    return value


_NoBool = BeforeValidator(_no_bool)
_Seed = Annotated[int, Field(ge=SEED.low, le=SEED.high), _NoBool]
_Side = Annotated[int, Field(ge=SIDE.low, le=SIDE.high, multiple_of=SIDE.multiple_of), _NoBool]
_Guidance = Annotated[float, Field(ge=0, le=20, allow_inf_nan=False), _NoBool]
_Steps = Annotated[int, Field(ge=1, le=100), _NoBool]


class GenerationRequest(BaseModel):
    """What a caller may say. `None`, or a field left out, means that the model decides.

    Numbers may come as strings. The ranges here are those of the widest model; a model's own
    limits narrow them (`read_request`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(
        min_length=1,
        max_length=PROMPT_LIMIT,
        pattern=r"\S",
        description=(
            "What to draw. Subject first, then place, light and style. Words that are too many "
            "to be read are named in the result."
        ),
    )
    negative_prompt: str | None = Field(
        default=None,
        max_length=PROMPT_LIMIT,
        description="What to keep out. Only has an effect with guidance above 1.",
    )
    seed: _Seed | None = Field(
        default=None,
        description="Same seed, same picture. Left out: a random one, named in the result.",
    )
    width: _Side | None = Field(default=None, description="Width in pixels.")
    height: _Side | None = Field(default=None, description="Height in pixels.")
    guidance: _Guidance | None = Field(
        default=None,
        description=(
            "How strongly the prompt is pushed against the negative prompt. Few-step models are "
            "made for 0; above 1 a step costs twice the time."
        ),
    )
    steps: _Steps | None = Field(
        default=None,
        description=(
            "Denoising steps, each of the same cost. The default is what the weights were made "
            "for: fewer are rougher, many more gain little."
        ),
    )


class Parameters(BaseModel):
    """What will be done, with nothing left open: a picture is a pure function of this.

    An empty `negative_prompt` means none. `seed` is that of the noise; sizes are pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    checkpoint: str
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    guidance: float
    steps: int


def read_request(arguments: Mapping[str, Any], model: Model) -> GenerationRequest:
    """Validates what came in from outside against the request's schema and the model's limits.

    Raises:
        InvalidRequestError: With every field that is wrong, what is allowed and what is nearest.
    """
    request: GenerationRequest | None = None
    problems: dict[str, Problem] = {}
    try:
        request = GenerationRequest.model_validate(dict(arguments))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            field = str(detail["loc"][0])
            problems[field] = _explain(field, detail["type"], detail["input"], model)
    problems |= _beyond(arguments, model)
    if request is None or problems:
        raise InvalidRequestError(*problems.values())
    return request


def resolve(request: GenerationRequest, model: Model) -> tuple[Parameters, tuple[str, ...]]:
    """Decides everything that the request leaves open.

    Returns:
        The facts, and notes: what will be done otherwise than the caller may expect.

    Raises:
        InvalidRequestError: A value, or the number of pixels, is beyond what the model allows.
    """
    steps = request.steps or model.default_steps
    parameters = Parameters(
        model=model.slug,
        checkpoint=model.checkpoint_for(steps).name,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or "",
        seed=secrets.randbits(32) if request.seed is None else request.seed,
        width=request.width or model.native_size,
        height=request.height or model.native_size,
        guidance=model.default_guidance if request.guidance is None else request.guidance,
        steps=steps,
    )
    if beyond := _beyond(parameters.model_dump(), model):
        raise InvalidRequestError(*beyond.values())
    _check_pixels(parameters, model)
    return parameters, tuple(_notes(parameters, model))


def request_schema(model: Model) -> dict[str, Any]:
    """The request as a flat JSON schema with this model's limits and defaults.

    Flat, because some hosts drop arguments whose schema is `anyOf` with null.
    """
    schema = GenerationRequest.model_json_schema()
    limits = _limits(model)
    defaults = {
        "width": model.native_size,
        "height": model.native_size,
        "guidance": _tidy(model.default_guidance),
        "steps": model.default_steps,
    }
    best = ", ".join(f"{width}x{height}" for width, height in model.sizes)
    properties: dict[str, dict[str, Any]] = {}
    for name, field in schema["properties"].items():
        flat = {**field, **next(iter(field.get("anyOf", [{}])))}
        for word in ("title", "default", "anyOf"):
            flat.pop(word, None)
        if name in limits:
            flat["minimum"], flat["maximum"] = _tidy(limits[name].low), _tidy(limits[name].high)
        if name in defaults:
            flat["default"] = defaults[name]
        if name in ("width", "height"):
            flat["description"] += f" Best sizes: {best}; at most {model.max_pixels:,} pixels."
        properties[name] = flat
    return {
        "type": "object",
        "properties": properties,
        "required": schema["required"],
        "additionalProperties": False,
    }


def _limits(model: Model) -> dict[str, Range]:
    return {
        "seed": SEED,
        "width": model.side,
        "height": model.side,
        "guidance": model.guidance,
        "steps": model.steps,
    }


def _beyond(values: Mapping[str, Any], model: Model) -> dict[str, Problem]:
    """The numbers among the values that the model does not allow."""
    numbers = {field: _as_number(values.get(field)) for field in _limits(model)}
    return {
        field: _explain(field, "range", values[field], model)
        for field, allowed in _limits(model).items()
        if (number := numbers[field]) is not None and number not in allowed
    }


def _explain(field: str, kind: str, value: object, model: Model) -> Problem:
    """Turns one validation error into what came, what is allowed and what is nearest."""
    if kind == "extra_forbidden":
        known = list(GenerationRequest.model_fields)
        close = difflib.get_close_matches(field, known, n=1)
        return Problem(field, "an unknown field", ", ".join(known), tuple(close))
    if kind == "missing":
        return Problem(field, "nothing", f"a text of 1 to {PROMPT_LIMIT:,} characters")
    allowed = _limits(model).get(field)
    if allowed is None:
        least = 1 if field == "prompt" else 0
        return Problem(field, _show(value), f"a text of {least} to {PROMPT_LIMIT:,} characters")
    number = _as_number(value)
    whole = field != "guidance"
    nearest = () if number is None else allowed.nearest(round(number) if whole else number)
    kind_word = "whole numbers, " if whole and allowed.multiple_of is None else ""
    return Problem(
        field, _show(value), f"{kind_word}{allowed}", tuple(str(_tidy(n)) for n in nearest)
    )


def _show(value: object) -> str:
    if isinstance(value, str):
        if not value.strip():
            return "an empty text"
        return repr(value) if len(value) <= 60 else f"a text of {len(value):,} characters"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of very many digits"
    if isinstance(value, int | float) or value is None:
        return str(value)
    return f"{type(value).__name__} {value!r}"[:80]


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _tidy(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _check_pixels(parameters: Parameters, model: Model) -> None:
    pixels = parameters.width * parameters.height
    if pixels <= model.max_pixels:
        return
    grid = cast(int, model.side.multiple_of)
    scale = math.sqrt(model.max_pixels / pixels)
    low, high = int(model.side.low), int(model.side.high)
    width = min(max(int(parameters.width * scale) // grid * grid, low), high)
    height = min(max(int(parameters.height * scale) // grid * grid, low), high)
    raise InvalidRequestError(
        Problem(
            "width x height",
            f"{parameters.width}x{parameters.height}, {pixels:,} pixels",
            f"at most {model.max_pixels:,} pixels",
            (f"{width}x{height}",),
        )
    )


def _made_for(steps: int, model: Model) -> str | None:
    """The checkpoint that is made for that many steps, which is not on this disk."""
    # One that was chosen by name, or has LoRAs, is alone: pulling another would not help.
    listed = CATALOGUE[model.slug].checkpoints if model.variants else ()
    proven = (one for one in listed if one.prediction_type == model.checkpoint.prediction_type)
    return next((one.name for one in proven if one.steps == steps), None)


def _notes(parameters: Parameters, model: Model) -> list[str]:
    notes = [*model.notes]
    guidance, steps = _tidy(parameters.guidance), parameters.steps
    checkpoint = model.checkpoint_for(steps)
    if parameters.negative_prompt and guidance <= 1:
        notes.append(
            f"The negative prompt has no effect at guidance {guidance}; it needs guidance above 1."
        )
    if steps != checkpoint.steps and checkpoint.guidance <= 1:
        other = _made_for(steps, model)
        cure = f" For {steps} there is: sdxl-lightning-mcp pull {other}" if other else ""
        notes.append(
            f"{checkpoint.name} is made for {checkpoint.steps} steps; {steps} were asked for.{cure}"
        )
    most = _tidy(checkpoint.bears_guidance)
    if checkpoint.guidance <= 1 and guidance > most:
        made = "without guidance" if most <= 1 else f"for guidance up to {most}"
        notes.append(
            f"{checkpoint.name} is made {made}; {guidance} was asked for, which can spoil the "
            "picture."
        )
    return notes
