"""Another server of ours that carries out runs: how it is, and its runs API as calls."""

import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import aclosing, contextmanager, suppress
from enum import IntEnum
from typing import Any

import anyio
import httpx2

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import (
    DeviceMemoryError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    StorageError,
    WeightsError,
    named,
)
from sdxl_lightning_mcp.image import GeneratedImage
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.answers import (
    STRANGE,
    Full,
    Lost,
    headers,
    in_words,
    mismatch,
    problem,
    reason,
    seconds_until_free,
    whole_picture,
)

# A server that is asked whether it is ready answers within milliseconds, also under load; one that
# is silent twice for so long hangs.
CHECK_SECONDS = 1.5
# Between two looks while it has runs; and so much longer while it has none.
WATCH_SECONDS, IDLE_SECONDS = 1.0, 15.0
# For an answer that is no stream; a run that is withdrawn is not waited for longer.
ANSWER_SECONDS, WITHDRAW_SECONDS = 10.0, 1.0
# Of an event, of which the last carries a picture in base64.
MOST_BYTES = 100_000_000
# Shorter than servers of ours keep a connection that is idle.
KEEP_ALIVE_SECONDS = 20.0
# What one server cannot do, another may.
ITS_OWN_TROUBLE = (WeightsError, DeviceMemoryError, StorageError)


class State(IntEnum):
    """How a server is, the best first; runs are given to the first two kinds."""

    READY = 0
    LOADING = 1
    UNKNOWN = 2
    UNFIT = 3
    LOST = 4


class Upstream:
    """One server: `watch` it, give it runs by `begin`, and `follow` them to their end.

    Args:
        url: Where it listens, without a path.
        token: The key it asks for, if any.
        model: What it must serve.
        changed: Told whenever it is in another state than before.
    """

    def __init__(
        self, url: str, token: str | None, model: Model, changed: Callable[[], None]
    ) -> None:
        self.url, self.state, self.answer = url, State.UNKNOWN, "was not asked yet"
        # Of a question and its answer, on the way there and back.
        self.round_trip = 0.0
        self.full_until = -math.inf
        self.runs: dict[str, Run] = {}
        self._model, self._changed = model, changed
        self._known = False
        self._roused, self._hurry = anyio.Event(), anyio.Event()
        # Of those who wait for it, who are let go when it is lost.
        self._holds: set[anyio.CancelScope] = set()
        self.client = httpx2.AsyncClient(
            base_url=url,
            headers=headers(token),
            timeout=ANSWER_SECONDS,
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=32,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
            ),
        )

    @property
    def usable(self) -> bool:
        """Whether runs may be given to it."""
        return self.state <= State.LOADING

    # --- how it is -------------------------------------------------------------------------

    async def watch(self) -> None:
        """Looks how it is, again and again, for ever."""
        while True:
            self._roused, self._hurry = anyio.Event(), anyio.Event()
            await self.check()
            if not self.runs and self.state is not State.LOADING:
                with anyio.move_on_after(IDLE_SECONDS):
                    await self._roused.wait()
            with anyio.move_on_after(WATCH_SECONDS):
                await self._hurry.wait()

    def hurry(self) -> None:
        """Looks at once."""
        self._roused.set()
        self._hurry.set()

    def rouse(self) -> None:
        """Looks often from now on: it is given a run."""
        self._roused.set()

    async def check(self) -> None:
        """Looks how it is. A refused connection counts at once, a silence if it lasts."""
        found = State.LOST, f"is silent for {2 * CHECK_SECONDS:g} s"
        for _ in range(2):
            with anyio.move_on_after(CHECK_SECONDS) as patience:
                found = await self._look()
            if not patience.cancelled_caught:
                break
        self._become(*found)

    async def _look(self) -> tuple[State, str]:
        try:
            if not self._known:
                wrong = mismatch(await self.client.get("/v1/models"), self._model)
                if wrong:
                    return State.UNFIT, wrong
                self._known = True
            began = time.perf_counter()
            response = await self.client.get("/readyz")
        except httpx2.RequestError as error:
            return State.LOST, in_words(error)
        taken = time.perf_counter() - began
        self.round_trip = 0.8 * self.round_trip + 0.2 * taken if self.round_trip else taken
        if response.is_success:
            return State.READY, "ready"
        told = problem(response)
        # Whoever waits there while it loads waits no longer than anywhere else.
        state = State.LOADING if told.get("code") == "loading" else State.UNFIT
        return state, str(told.get("detail", f"answers {response.status_code}"))

    def _become(self, state: State, answer: str) -> None:
        if state is State.LOST:
            # What comes back may be another version, with another model.
            self._known = False
            for hold in self._holds:
                hold.cancel()
        changed = (state, answer) != (self.state, self.answer)
        self.state, self.answer = state, answer
        if changed:
            self._changed()

    # --- runs ------------------------------------------------------------------------------

    async def begin(self, run: Run) -> httpx2.Response:
        """Gives it a run, under the run's id as key: what was given before is not begun again.

        Returns:
            What it tells of the run from now on, for `follow`.

        Raises:
            Full: There is no room now.
            Lost: It does not take the run.
            SdxlLightningError: No server would.
        """
        # Silence is no sign here: whether it still lives is looked at elsewhere.
        patience = httpx2.Timeout(ANSWER_SECONDS, read=None)
        with self._held():
            request = self._asking(run, "text/event-stream", timeout=patience)
            response = await self.client.send(request, stream=True)
            if response.is_success:
                return response
            await response.aread()
            if response.status_code in (409, 429):
                raise Full(seconds_until_free(response))
            if response.status_code == 422:
                raise RunFailedError(f"{self.url}: {problem(response).get('detail')}")
            raise Lost(reason(response))
        raise Lost(self.answer)

    async def follow(self, run: Run, response: httpx2.Response) -> GeneratedImage:
        """Waits for the end of a run that it has begun, and tells the run how it goes on.

        Raises:
            Lost: It will not bring it to an end.
            SdxlLightningError: How it ended there, without a picture.
        """
        failure: SdxlLightningError | None = None
        with self._held():
            async with aclosing(response):
                ended = await _last(response, run)
            if ended["status_code"] == Status.SUCCEEDED:
                parameters = Parameters.model_validate(ended["input"])
                return GeneratedImage(whole_picture(ended), parameters, tuple(ended["notes"]))
            if ended["status_code"] == Status.CANCELED:
                failure = RunCanceledError(f"The run was canceled at {self.url}.")
            else:
                failure = named(str(ended["failure_code"]), str(ended["failure_message"]))
        raise failure or Lost(self.answer)

    async def withdraw(self, run: Run) -> None:
        """Lets it know that nobody wants the run any more; waits only shortly for that."""
        given_up = (httpx2.RequestError, ValueError, KeyError, TypeError)
        with anyio.move_on_after(WITHDRAW_SECONDS, shield=True), suppress(*given_up):
            # By its key it is told again, also where the first answer never came.
            response = await self.client.send(self._asking(run, "application/json"))
            await self.client.post(f"/v1/runs/{response.json()['id']}/cancel")

    def _asking(self, run: Run, accept: str, **options: Any) -> httpx2.Request:
        return self.client.build_request(
            "POST",
            f"/v1/models/{self._model.slug}/runs",
            json={
                "input": run.parameters.model_dump(exclude={"model", "checkpoint"}),
                "client_ref": run.id,
            },
            headers={"Idempotency-Key": run.id, "Accept": accept},
            **options,
        )

    @contextmanager
    def _held(self) -> Generator[None]:
        """Inside, what is awaited of the server is given up when the server is lost."""
        with anyio.CancelScope() as hold:
            self._holds.add(hold)
            try:
                yield
            except httpx2.RequestError as error:
                raise Lost(in_words(error)) from error
            except (ValueError, KeyError, TypeError) as error:
                raise Lost(STRANGE) from error
            finally:
                self._holds.discard(hold)


async def _last(response: httpx2.Response, run: Run) -> Mapping[str, Any]:
    """The run as it is told last; until then its progress is passed on."""
    async for event in httpx2.EventSource(response, MOST_BYTES):
        told = json.loads(event.data)
        if event.event == "done":
            return told
        _tell(run, Status(event.event), told)
    raise Lost("ended before the run did")


def _tell(run: Run, status: Status, progress: Mapping[str, Any]) -> None:
    """Passes on how far a run is."""
    if run.done:
        return
    if status is Status.RUNNING and run.status is Status.QUEUED:
        run.started_now()
    elif status is Status.QUEUED:
        run.status = Status.QUEUED
        run.position = max(1, progress["position"])
    run.step, run.message = progress["step"], progress["message"]
    run.changed()
