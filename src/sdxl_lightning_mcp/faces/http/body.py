"""Bodies of requests: JSON read strictly, within a size and a time."""

import json
from typing import Any, NoReturn, cast

import anyio
from starlette.requests import ClientDisconnect, Request

from sdxl_lightning_mcp.faces.http.problems import Refusal

MOST_BYTES = 1_000_000
MOST_DEPTH = 32
SECONDS = 10.0
CLOSE = {"Connection": "close"}


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries.

    Raises:
        Refusal: It carries something else, too much, or comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(
            415, "wrong_content_type", f"Send application/json; this is {kind or 'without a type'}."
        )
    try:
        with anyio.fail_after(SECONDS):
            content = await _read(request)
    except TimeoutError:
        raise Refusal(
            408,
            "slow_body",
            f"The body did not come within {SECONDS:g} s. Send it at once.",
            headers=CLOSE,
        ) from None
    found = parse(content)
    if not isinstance(found, dict):
        raise Refusal(400, "not_an_object", "Send a JSON object: {...}.")
    return cast(dict[str, Any], found)


async def _read(request: Request) -> bytes:
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                most = f"A body has at most {MOST_BYTES:,} bytes."
                raise Refusal(413, "body_too_large", most, headers=CLOSE)
    except ClientDisconnect:
        raise Refusal(400, "cut_short", "The body ended before its length.") from None
    return bytes(content)


def parse(content: bytes) -> object:
    """JSON that means one thing: no name twice, no NaN, nothing that is not UTF-8.

    Raises:
        Refusal: It is something else.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(400, "not_utf8", f"Byte {error.start} of the body is not UTF-8.") from None
    try:
        _check_depth(text)
        found = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_constant)
        # Half a surrogate pair can be written in JSON and is no text.
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal(400, "not_unicode", "A text holds half a surrogate pair.") from None
    except ValueError as error:
        raise Refusal(400, "not_json", f"The body is not JSON: {error}.") from None
    return found


def _check_depth(text: str) -> None:
    depth, quoted, escaped = 0, False, False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            if depth > MOST_DEPTH:
                raise Refusal(400, "too_deep", f"JSON is nested at most {MOST_DEPTH} deep here.")
        elif character in "]}":
            depth -= 1


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise Refusal(400, "duplicate_key", f"The name {twice[:60]!r} stands twice in one object.")
    return found


def _no_constant(name: str) -> NoReturn:
    raise Refusal(400, "not_json", f"{name} is no JSON number.")
