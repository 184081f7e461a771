"""Errors as they go over HTTP: problem+json (RFC 9457) with a stable code."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from sdxl_lightning_mcp.errors import (
    BusyError,
    ClosingError,
    DeviceMemoryError,
    InvalidRequestError,
    KeyInUseError,
    Problem,
    RunCanceledError,
    RunNotFoundError,
    SdxlLightningError,
    StorageError,
    UnknownModelError,
    UnreachableError,
    WeightsError,
)

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:sdxl-lightning-mcp:problem:"
STATUS: dict[type[SdxlLightningError], int] = {
    InvalidRequestError: 422,
    UnknownModelError: 404,
    RunNotFoundError: 404,
    ClosingError: 503,
    KeyInUseError: 409,
    BusyError: 429,
    StorageError: 507,
    WeightsError: 503,
    UnreachableError: 503,
    DeviceMemoryError: 503,
    RunCanceledError: 409,
}
# OpenAI's clients tell errors apart by these words.
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# What is allowed where pydantic finds a query's parameter wrong, in the words of all faces.
_ALLOWED = {
    "literal_error": "{expected}",
    "greater_than_equal": "{ge:g} or more",
    "less_than_equal": "{le:g} or less",
    "int_parsing": "whole numbers",
    "int_parsing_size": "whole numbers of few digits",
    "string_pattern_mismatch": "texts that match {pattern}",
}


def parameter_problem(found: Mapping[str, Any]) -> Problem:
    """What the framework found wrong with a parameter of a query or a path."""
    template = _ALLOWED.get(found["type"])
    words = template.format(**found.get("ctx", {})) if template else str(found["msg"])
    return Problem(str(found["loc"][-1]), repr(found.get("input"))[:60], words.replace("'", ""))


class Refusal(Exception):
    """A request that is not met: the HTTP status, a code for programs, and what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers = [*errors], dict(headers or {})

    def body(self, request_id: str, path: str) -> dict[str, Any]:
        """The problem as data; `error` repeats it in the form that OpenAI's clients read."""
        kind = OPENAI_TYPES.get(self.status, "invalid_request_error")
        if self.status >= 500:
            kind = "server_error"
        field = self.errors[0].get("field") if self.errors else None
        return {
            "type": TYPE + self.code,
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "instance": path,
            "request_id": request_id,
            "errors": self.errors,
            "error": {"message": self.detail, "type": kind, "param": field, "code": self.code},
        }

    def response(self, request_id: str, path: str) -> JSONResponse:
        """The answer that tells it."""
        return JSONResponse(
            self.body(request_id, path), self.status, self.headers, media_type=MEDIA_TYPE
        )


def refusal(error: SdxlLightningError, *, within: str = "") -> Refusal:
    """One error of the tree as it goes over HTTP; fields are named `within` what holds them."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    headers = {"Retry-After": str(error.seconds)} if isinstance(error, BusyError) else {}
    if status == 503 and not headers:
        headers = {"Retry-After": "60"}
    problems = error.problems if isinstance(error, InvalidRequestError) else ()
    return Refusal(
        status,
        error.code,
        str(error),
        errors=[_error(problem, within) for problem in problems],
        headers=headers,
    )


def _error(problem: Problem, within: str) -> dict[str, Any]:
    return {
        "field": within + problem.field,
        "message": str(problem),
        "got": problem.got,
        "allowed": problem.allowed,
        "nearest": [*problem.nearest],
    }
