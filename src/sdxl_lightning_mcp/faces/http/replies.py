"""Runs as they are told over HTTP, in the hosted API's shape."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces.http.access import Links
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run, Status


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Output(_Reply):
    """One picture of a run. `url` holds for a time, for whoever has it."""

    url: str
    type: Literal["image/jpeg"] = "image/jpeg"
    width: int
    height: int
    bytes: int


class RunOutput(_Reply):
    """What a run brought forth, and the seed that makes it again."""

    outputs: list[Output]
    seed: int


class Progress(_Reply):
    """How far a run is: steps of steps, how many wait before it, and a few words."""

    step: int
    steps: int
    position: int
    message: str


class RunLinks(_Reply):
    """Where more of a run is."""

    self: str
    events: str
    cancel: str
    image: str


class RunReply(_Reply):
    """A run. `input` is what is computed, with nothing left open; times are RFC 3339, in UTC."""

    id: str
    model_id: str
    status_code: Status
    input: Parameters
    output: RunOutput | None
    notes: list[str]
    progress: Progress
    cost: float | None
    duration_ms: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    failure_code: str | None
    failure_message: str | None
    metadata: dict[str, Any] | None
    client_ref: str | None
    callback_url: str | None
    batch_id: str | None
    request_id: str | None
    links: RunLinks


class RunsReply(_Reply):
    """A page of runs, the newest first; `next` is the cursor of the following one."""

    data: list[RunReply]
    next: str | None


class BatchReply(_Reply):
    """Runs that were asked for together."""

    id: str
    runs: list[RunReply]


class UsageDay(_Reply):
    """What one key used on one day (UTC); a run counts on the day on which it ended."""

    owner: str
    day: str
    status: Status
    runs: int
    pixels: int
    duration_ms: int
    cost: float


class UsageReply(_Reply):
    """The sum of `days`, which are the caller's own."""

    runs: int
    pictures: int
    pixels: int
    duration_ms: int
    cost: float
    days: list[UsageDay]


class ReadyReply(_Reply):
    """Runs would be carried out now; `state` is the device's."""

    ready: Literal[True]
    state: str


class Image(_Reply):
    """One picture in OpenAI's form, and the run that made it."""

    url: str | None = None
    b64_json: str | None = None
    seed: int
    run_id: str
    notes: list[str]


class ImagesReply(_Reply):
    """Pictures in OpenAI's form."""

    created: int
    data: list[Image]
    output_format: str


class ModelReply(_Reply):
    """A model in OpenAI's form, the version that serves it, and its limits and checkpoints."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    version: str
    description: Model


class ModelsReply(_Reply):
    """Models in OpenAI's form."""

    object: Literal["list"]
    data: list[ModelReply]


class FieldError(_Reply):
    """One field that cannot be met: what came, what is allowed, what is nearest to it."""

    field: str
    message: str
    got: str
    allowed: str
    nearest: list[str]


class ProblemReply(BaseModel):
    """An error (RFC 9457). `code` is stable; `error` is for OpenAI's clients."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    request_id: str
    errors: list[FieldError]
    error: dict[str, Any]


def run_reply(run: Run, url: str, links: Links) -> dict[str, Any]:
    """A run as data; links begin with `url`."""
    parameters, context = run.parameters, run.origin.context
    here = f"{url}/v1/runs/{run.id}"
    return {
        "id": run.id,
        "model_id": parameters.model,
        "status_code": str(run.status),
        "input": parameters.model_dump(),
        "output": _output(run, here, links),
        "notes": run.notes,
        "progress": progress(run),
        "cost": run.cost if run.done else None,
        "duration_ms": run.duration_ms,
        "created_at": _time(run.created),
        "started_at": _time(run.started_at),
        "completed_at": _time(run.completed_at),
        "failure_code": run.error.code if run.error else None,
        "failure_message": str(run.error) if run.error else None,
        "metadata": context.get("metadata"),
        "client_ref": context.get("client_ref"),
        "callback_url": context.get("callback_url"),
        "batch_id": run.origin.batch,
        "request_id": context.get("request_id"),
        "links": {
            "self": here,
            "events": f"{here}/events",
            "cancel": f"{here}/cancel",
            "image": f"{here}/image",
        },
    }


def progress(run: Run) -> dict[str, Any]:
    """How far a run is."""
    done = run.status is Status.SUCCEEDED
    return {
        "step": run.parameters.steps if done else run.step,
        "steps": run.parameters.steps,
        "position": run.position if run.status is Status.QUEUED else 0,
        "message": run.message,
    }


def image_link(run: Run, url: str, links: Links) -> str:
    """A link to a run's picture that needs no key."""
    return f"{url}/v1/runs/{run.id}/image?{links.query(run.id, run.origin.owner)}"


def _output(run: Run, here: str, links: Links) -> dict[str, Any] | None:
    if run.status is not Status.SUCCEEDED:
        return None
    picture = {
        "url": f"{here}/image?{links.query(run.id, run.origin.owner)}",
        "type": "image/jpeg",
        "width": run.parameters.width,
        "height": run.parameters.height,
        "bytes": run.size or 0,
    }
    return {"outputs": [picture], "seed": run.parameters.seed}


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
