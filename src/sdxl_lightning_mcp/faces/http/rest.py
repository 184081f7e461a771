"""The runs API, first half: runs are asked for, one or many, and waited for."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from sdxl_lightning_mcp.errors import InvalidRequestError, Problem
from sdxl_lightning_mcp.faces.http.answers import KEY, Answers
from sdxl_lightning_mcp.faces.http.body import read_object
from sdxl_lightning_mcp.faces.http.callbacks import Callbacks
from sdxl_lightning_mcp.faces.http.events import MEDIA_TYPE, events, wants_events
from sdxl_lightning_mcp.faces.http.replies import BatchReply, RunReply, run_reply
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.faces.http.spec import answers, asks
from sdxl_lightning_mcp.ids import new_run_id
from sdxl_lightning_mcp.request import GenerationRequest
from sdxl_lightning_mcp.run import Origin, Run

MOST_INPUTS = 100
LONGEST_WAIT = 600.0
LONGEST_REFERENCE = 255
REFUSED = (400, 404, 408, 409, 413, 415, 422, 429, 503)


class Rest:
    """The routes by which runs are asked for, over one site."""

    def __init__(self, site: Site, callbacks: Callbacks) -> None:
        self._site, self._callbacks = site, callbacks
        self._answers = Answers(site)

    def router(self) -> APIRouter:
        """The routes, with what the OpenAPI file says of them."""
        router = APIRouter(prefix="/v1", tags=["runs"])
        schema = self._site.schema
        route = router.add_api_route
        model = "/models/{model:path}"
        route(
            f"{model}/runs",
            self.create,
            methods=["POST"],
            operation_id="createRun",
            summary="Make a picture",
            openapi_extra=asks("run", schema, callbacks=self._callbacks.allowed),
            responses=answers(MEDIA_TYPE, 200) | answers(RunReply, 201, 202, refused=REFUSED),
            status_code=201,
        )
        route(
            f"{model}/batches",
            self.create_batch,
            methods=["POST"],
            operation_id="createBatch",
            summary="Make up to 100 pictures",
            openapi_extra=asks("batch", schema, callbacks=self._callbacks.allowed),
            responses=answers(BatchReply, 201, 202, refused=REFUSED),
            status_code=202,
        )
        return router

    async def create(self, model: str, request: Request) -> Response:
        """Takes a run in.

        Answers 202 at once; with `Prefer: wait=N` up to N seconds later, and 201 if it has ended.
        With `Accept: text/event-stream` it answers 200 and the run's events, of which `done`
        carries the picture too, in base64. A client that goes away does not stop the run.
        """
        notes = self._site.notes_on(model)
        body = await read_object(request)
        context = self._context(body, "input", request)
        (wish,) = _wishes([body.get("input")], "input")
        origin, key = Origin(context=context), request.headers.get(KEY)
        runs = await self._site.runs([wish], origin, key=key, prefix="input/", notes=notes)
        async with self._answers.once(request, body, runs) as earlier:
            runs = earlier or await self._submit(runs)
            if wants_events(request):
                url = request.state.url
                told = _told(f"{url}/v1/runs/{runs[0].id}", {}, earlier is not None)
                return events(self._site, runs[0], url, picture=True, headers=told)
            headers = await self._wait(request, runs)
            reply = self._reply(runs[0], request)
            told = _told(reply["links"]["self"], headers, earlier is not None)
            return _answer(reply, runs, told)

    async def create_batch(self, model: str, request: Request) -> Response:
        """Takes 1 to 100 runs in, all or none; they are answered and waited for as one run is."""
        notes = self._site.notes_on(model)
        body = await read_object(request)
        context = self._context(body, "inputs", request)
        many = cast(list[object], body.get("inputs"))
        if not isinstance(body.get("inputs"), list) or not 1 <= len(many) <= MOST_INPUTS:
            raise _wrong("inputs", body.get("inputs"), f"an array of 1 to {MOST_INPUTS} inputs")
        origin = Origin(batch=new_run_id(self._site.settings.region), context=context)
        wishes = _wishes(many, "inputs/{}")
        key = request.headers.get(KEY)
        runs = await self._site.runs(wishes, origin, key=key, prefix="inputs/{}/", notes=notes)
        async with self._answers.once(request, body, runs) as earlier:
            runs = earlier or await self._submit(runs)
            headers = await self._wait(request, runs)
            batch = runs[0].origin.batch
            reply = {"id": batch, "runs": [self._reply(run, request) for run in runs]}
            location = f"{request.state.url}/v1/runs?batch={batch}"
            return _answer(reply, runs, _told(location, headers, earlier is not None))

    def _context(self, body: Mapping[str, Any], input: str, request: Request) -> dict[str, Any]:
        """What is kept with a run beside its input, checked."""
        known = (input, "metadata", "callback_url", "client_ref")
        for name in body:
            if name in GenerationRequest.model_fields:
                raise _wrong(name, "a field of the picture", f"it within {input}")
            if name not in known:
                raise _wrong(name[:60], "an unknown field", ", ".join(known))
        metadata: object = body.get("metadata")
        if not isinstance(metadata, dict | None):
            raise _wrong("metadata", metadata, "an object")
        reference: object = body.get("client_ref")
        if not isinstance(reference, str | None) or len(reference or "") > LONGEST_REFERENCE:
            raise _wrong("client_ref", reference, "a text of at most 255 characters")
        context: dict[str, Any] = {
            "face": "rest",
            "request_id": request.state.request_id,
            "metadata": metadata,
            "client_ref": reference,
            "callback_url": self._callbacks.check(body.get("callback_url")),
        }
        return {name: value for name, value in context.items() if value is not None}

    async def _submit(self, runs: list[Run]) -> list[Run]:
        await self._callbacks.expect(runs)
        await self._site.runner.submit_all(runs)
        return runs

    async def _wait(self, request: Request, runs: list[Run]) -> dict[str, str]:
        """Waits as long as `Prefer` says, and returns what is told of it."""
        prefer = request.headers.get("prefer", "")
        found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", prefer)
        if not found:
            return {}
        seconds = min(float(found[1]), LONGEST_WAIT)
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._give_up_at_the_end, tasks.cancel_scope)
                for run in runs:
                    async for _ in run.updates():
                        pass
                tasks.cancel_scope.cancel()
        return {"Preference-Applied": f"wait={seconds:.0f}"}

    async def _give_up_at_the_end(self, scope: anyio.CancelScope) -> None:
        await self._site.runner.closed.wait()
        scope.cancel()

    def _reply(self, run: Run, request: Request) -> dict[str, Any]:
        return run_reply(run, request.state.url, self._site.links)


def _wishes(inputs: Sequence[object], name: str) -> list[Mapping[str, Any]]:
    """Inputs that are objects, whatever is in them."""
    for number, wish in enumerate(inputs):
        if not isinstance(wish, dict):
            raise _wrong(name.format(number), wish, "an object with at least a prompt")
    return cast(list[Mapping[str, Any]], [*inputs])


def _told(location: str, headers: Mapping[str, str], replayed: bool) -> dict[str, str]:
    """The headers of an answer, whatever its form."""
    found = {"Location": location, **headers}
    return {**found, "Idempotent-Replayed": "true"} if replayed else found


def _answer(
    reply: Mapping[str, Any], runs: Sequence[Run], headers: Mapping[str, str]
) -> JSONResponse:
    """201 where all have ended, else 202 with when to ask again."""
    if all(run.done for run in runs):
        return JSONResponse(reply, 201, dict(headers))
    return JSONResponse(reply, 202, {**headers, "Retry-After": "1"})


def _wrong(field: str, got: object, allowed: str) -> InvalidRequestError:
    said = "nothing" if got is None else got if isinstance(got, str) else type(got).__name__
    return InvalidRequestError(Problem(field, said[:60], allowed))
