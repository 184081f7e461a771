"""What the OpenAPI file says that the routes do not: bodies, answers, examples."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sdxl_lightning_mcp.faces.http.problems import MEDIA_TYPE
from sdxl_lightning_mcp.faces.http.replies import ProblemReply

Json = dict[str, Any]
PROBLEM = {"$ref": "#/components/schemas/Problem"}
SAID = {
    200: "Done.",
    201: "Done; the run has ended.",
    202: "Accepted; the run is under way. Follow Location or `links.events`.",
    204: "Done.",
    400: "The body cannot be read.",
    403: "Not allowed.",
    404: "There is no such thing, or it is somebody else's.",
    408: "The body came too slowly.",
    409: "Not now.",
    410: "It was removed.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field cannot be met; `errors` says which, and what can.",
    429: "Too many runs are waiting, or too many were asked for. See Retry-After.",
    503: "Not ready, or about to end. See Retry-After.",
}
EXAMPLE: Json = {"prompt": "a lighthouse on a cliff, storm, crashing waves", "seed": 7}
SMALL: Json = {"prompt": "the sea at sunset with a sailboat", "width": 512, "height": 512}
_PREFER: Json = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=N`: answer when the runs have ended, at latest after N seconds.",
    "schema": {"type": "string"},
    "example": "wait=60",
}
_IDEMPOTENCY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body within 24 hours is answered by the same runs.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_CALLBACK: Json = {
    "type": ["string", "null"],
    "maxLength": 2048,
    "pattern": "^https?://",
    "description": "Is told of the end, signed (Standard Webhooks).",
}
_EXTRAS: Json = {
    "metadata": {"type": ["object", "null"], "description": "Yours; it comes back with the run."},
    "client_ref": {
        "type": ["string", "null"],
        "maxLength": 255,
        "description": "Yours; it comes back with the run.",
    },
}


def nullable(schema: Json) -> Json:
    """A request's schema in which null means that the model decides, as it does."""
    properties = {
        name: field if name in schema["required"] else {**field, "type": [field["type"], "null"]}
        for name, field in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def asks(kind: str, schema: Json, *, callbacks: bool = False) -> Json:
    """The request of `run`, `batch` or `image` (OpenAI's), for a route's openapi_extra."""
    wish = nullable(schema)
    off = {"type": "null", "description": "Callbacks are off on this server."}
    extras = {**_EXTRAS, "callback_url": _CALLBACK if callbacks else off}
    parameters = [_IDEMPOTENCY]
    if kind == "image":
        body, examples = (
            _openai(wish),
            {
                "a picture": {"prompt": EXAMPLE["prompt"], "size": "1024x1024"},
                "base64": {
                    "prompt": SMALL["prompt"],
                    "size": "512x512",
                    "response_format": "b64_json",
                },
            },
        )
    elif kind == "batch":
        inputs = {"type": "array", "minItems": 1, "maxItems": 100, "items": wish}
        body = _object({"inputs": inputs, **extras}, "inputs")
        examples = {"two pictures": {"inputs": [EXAMPLE, SMALL]}}
        parameters = [_PREFER, *parameters]
    else:
        body = _object({"input": wish, **extras}, "input")
        examples = {
            "a picture": {"input": EXAMPLE},
            "a small one": {"input": SMALL, "client_ref": "order-17", "metadata": {"page": 3}},
        }
        parameters = [_PREFER, *parameters]
    content = {"schema": body, "examples": {n: {"value": value} for n, value in examples.items()}}
    return {
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": content}},
    }


def answers(kind: Any, *statuses: int, refused: Sequence[int] = ()) -> dict[int | str, Json]:
    """The answers of a route: a model, a media type or nothing, and the problems there may be."""
    found: dict[int | str, Json] = {}
    for status in statuses:
        found[status] = {"description": SAID[status]}
        if isinstance(kind, str):
            found[status]["content"] = {kind: {}}
        elif kind is not None:
            found[status]["model"] = kind
    for status in refused:
        found[status] = problem(SAID[status])
    found["default"] = problem("Another problem.")
    return found


def problem(description: str) -> Json:
    """A problem as an answer."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": PROBLEM}}}


def openapi(app: FastAPI, title: str, version: str, description: str, *, keys: bool) -> Json:
    """The OpenAPI 3.1 file of the application."""
    document = get_openapi(title=title, version=version, description=description, routes=app.routes)
    schemas: Json = document.setdefault("components", {}).setdefault("schemas", {})
    own = ProblemReply.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= own.pop("$defs")
    schemas["Problem"] = own
    for path in document["paths"].values():
        for operation in path.values():
            # FastAPI's own form of 422, which is not ours.
            for status in [*operation["responses"]]:
                if "HTTPValidationError" in str(operation["responses"][status]):
                    operation["responses"][status] = problem(SAID[422])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if keys:
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "An API key: sdxl_..."}
        }
        document["security"] = [{"key": []}]
    return document


def _object(properties: Json, *required: str) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


def _openai(wish: Json) -> Json:
    sides = wish["properties"]["width"]
    inputs = {k: field for k, field in wish["properties"].items() if k not in ("width", "height")}
    properties = {
        **inputs,
        "model": {"type": ["string", "null"], "description": "A model of /v1/models."},
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 10, "default": 1},
        "size": {
            "type": ["string", "null"],
            "pattern": "^(auto|[0-9]{1,5}x[0-9]{1,5})$",
            "description": f"WIDTHxHEIGHT, {sides['minimum']} to {sides['maximum']}, or auto.",
        },
        "response_format": {"enum": ["url", "b64_json", None], "default": "url"},
        "output_format": {"enum": ["jpeg", "png", "webp", None], "default": "jpeg"},
        "user": {"type": ["string", "null"], "description": "Yours; nothing is done with it."},
    }
    return _object(properties, "prompt")
