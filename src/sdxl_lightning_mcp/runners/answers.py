"""What another server of ours answers, and what that means for the run it was asked to draw."""

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, cast

import httpx2
from pydantic import TypeAdapter, ValidationError

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SettingsError

KEY_VARIABLE = "SDXL_LIGHTNING_CONNECT_TOKEN"
ASK_SECONDS = 3.0
# A server that is full is asked again after so long at the most, whatever it says.
MOST_SECONDS = 5.0
CARD = TypeAdapter(Model)
# What is said of an answer that cannot be read.
STRANGE = "answers otherwise than a server of ours"


class Lost(Exception):
    """The server has let go of a run, or never had it; the text is what it answered."""


class Full(Exception):
    """As many runs wait there as may; there may be room in `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def served_model(urls: Sequence[str], token: str | None) -> Model:
    """What the first of these servers that answers serves.

    Raises:
        SettingsError: None does; with what each answered.
    """
    answers: list[str] = []
    for url in urls:
        try:
            response = httpx2.get(f"{url}/v1/models", headers=headers(token), timeout=ASK_SECONDS)
        except httpx2.RequestError as error:
            answers.append(f"{url} {in_words(error)}")
            continue
        wrong = mismatch(response)
        if not wrong:
            return CARD.validate_python(response.json()["data"][0]["description"])
        answers.append(f"{url} {wrong}")
    raise SettingsError(f"connect: no server can be used. {unreachable(answers)}")


def unreachable(answers: Sequence[str]) -> str:
    """What each server answered, and what to do."""
    return (
        f"{'; '.join(answers)}. Start `sdxl-lightning-mcp serve` there, or leave --connect out to "
        "draw on this machine."
    )


def headers(token: str | None) -> dict[str, str]:
    """What carries the key, if there is one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def mismatch(response: httpx2.Response, model: Model | None = None) -> str | None:
    """Why a server that answers so is not to be used; None where it is."""
    if response.status_code in (401, 403):
        sent = "authorization" in response.request.headers
        return f"{'does not know the key' if sent else 'asks for a key,'} in {KEY_VARIABLE}"
    if response.status_code >= 500 or response.status_code == 421:
        return reason(response)
    try:
        (served,) = response.json()["data"]
        theirs, ours = served["version"], version("sdxl-lightning-mcp")
        if theirs != ours:
            return f"is version {theirs} and this is {ours}: install the same on both"
        there = CARD.validate_python(served["description"])
    except (ValueError, KeyError, TypeError, ValidationError):
        return "is no server of sdxl-lightning-mcp, or one of before --connect"
    if model and (there.slug, there.checkpoint.name) != (model.slug, model.checkpoint.name):
        return f"serves {there.slug} ({there.checkpoint.name}), not {model.checkpoint.name}"
    return None


def reason(response: httpx2.Response) -> str:
    """Why a request was not met."""
    return str(problem(response).get("detail", f"answers {response.status_code}"))


def problem(response: httpx2.Response) -> dict[str, Any]:
    """The error that an answer tells (problem+json); empty where it tells none."""
    with suppress(ValueError):
        body = response.json()
        if isinstance(body, dict):
            return cast(dict[str, Any], body)
    return {}


def seconds_until_free(response: httpx2.Response) -> float:
    """When a full server wants to be asked again."""
    try:
        return min(float(response.headers["retry-after"]), MOST_SECONDS)
    except (KeyError, ValueError):
        return 1.0


def whole_picture(reply: Mapping[str, Any]) -> bytes:
    """The picture's file. Raises Lost where it is not all there."""
    (picture,) = reply["output"]["outputs"]
    if "b64_json" not in picture:
        raise Lost("has removed the picture")
    jpeg = base64.b64decode(picture["b64_json"], validate=True)
    if len(jpeg) != picture["bytes"]:
        raise Lost(f"gave {len(jpeg)} bytes of a picture of {picture['bytes']}")
    return jpeg


def in_words(error: Exception) -> str:
    """What went wrong on the way to a server and back."""
    match error:
        case httpx2.ConnectError():
            return "cannot be connected to"
        case httpx2.TimeoutException():
            return "gives no answer"
        case _:
            return "broke the connection"
