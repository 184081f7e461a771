"""What another server of ours answers, and what that means for the run it was asked to draw."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, cast

import httpx2
from pydantic import TypeAdapter, ValidationError

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.run import Status

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
            return CARD.validate_python(read(response)["data"][0]["description"])
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
        return str(problem(response).get("detail", f"answers {response.status_code}"))
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


def read(response: httpx2.Response) -> Any:
    """The answer as data. Raises Lost where it is none."""
    if not response.is_success:
        detail = problem(response).get("detail", f"answers {response.status_code}")
        raise Lost(str(detail))
    return response.json()


def read_run(response: httpx2.Response) -> dict[str, Any]:
    """A run as a server tells it. Raises Lost where the answer tells none."""
    reply = read(response)
    if not (isinstance(reply, dict) and {"id", "status_code"} <= {*cast(dict[str, Any], reply)}):
        raise Lost(STRANGE)
    return cast(dict[str, Any], reply)


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


def is_final(reply: Mapping[str, Any]) -> bool:
    """Whether a run, as a server tells it, has ended."""
    return reply["status_code"] in (Status.SUCCEEDED, Status.FAILED, Status.CANCELED)


def whole_picture(response: httpx2.Response, reply: Mapping[str, Any]) -> bytes:
    """The picture's file. Raises Lost where it is not all there."""
    if not response.is_success:
        read(response)
    (picture,) = reply["output"]["outputs"]
    if len(response.content) != picture["bytes"]:
        raise Lost(f"gave {len(response.content)} bytes of a picture of {picture['bytes']}")
    return response.content


def in_words(error: Exception) -> str:
    """What went wrong on the way to a server and back."""
    match error:
        case httpx2.ConnectError():
            return "cannot be connected to"
        case httpx2.TimeoutException():
            return "gives no answer"
        case _:
            return "broke the connection"
