"""OpenAI's images API over the same runs, for everything that speaks it already."""

import base64
import difflib
import re
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import InvalidRequestError, Problem
from sdxl_lightning_mcp.faces.http.answers import KEY, Answers
from sdxl_lightning_mcp.faces.http.body import read_object
from sdxl_lightning_mcp.faces.http.pictures import FORMATS, converted
from sdxl_lightning_mcp.faces.http.problems import Refusal
from sdxl_lightning_mcp.faces.http.replies import ImagesReply, ModelsReply, image_link
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.faces.http.spec import answers, asks
from sdxl_lightning_mcp.request import GenerationRequest
from sdxl_lightning_mcp.run import Origin, Run
from sdxl_lightning_mcp.selection import on_disk

MOST_PICTURES = 10
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
# What OpenAI's clients may send for models of its own, and what of it can be met here.
OWN = ("model", "n", "size", "response_format", "output_format", "user")
FIXED: Mapping[str, tuple[object, ...]] = {
    "quality": ("auto", "standard", "high", "hd"),
    "style": ("vivid", "natural"),
    "moderation": ("auto", "low"),
    "background": ("auto", "opaque"),
    "stream": (False,),
}


CARD = TypeAdapter(Model)


class OpenAI:
    """The routes that OpenAI's clients call, over one site."""

    def __init__(self, site: Site) -> None:
        self._site, self._answers = site, Answers(site)

    def router(self) -> APIRouter:
        """The routes, with what the OpenAPI file says of them."""
        router = APIRouter(prefix="/v1", tags=["openai"])
        router.add_api_route(
            "/images/generations",
            self.generate,
            methods=["POST"],
            operation_id="createImage",
            summary="Make pictures as OpenAI's clients ask for them",
            openapi_extra=asks("image", self._site.schema),
            responses=answers(
                ImagesReply, 200, refused=(400, 404, 408, 409, 413, 415, 422, 429, 503)
            ),
        )
        router.add_api_route(
            "/models",
            self.models,
            operation_id="listModels",
            summary="The model that is served",
            responses=answers(ModelsReply, 200),
        )
        return router

    async def models(self) -> Response:
        """The model that is served, in OpenAI's form, and what another server of ours asks."""
        here = await anyio.to_thread.run_sync(on_disk, self._site.model)
        model = {
            "id": here.slug,
            "object": "model",
            "created": self._site.started,
            "owned_by": "sdxl-lightning-mcp",
            "version": version("sdxl-lightning-mcp"),
            "description": CARD.dump_python(here.described, mode="json"),
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def generate(self, request: Request) -> Response:
        """Makes n pictures and answers when all are there; given up when the client goes away."""
        body = await read_object(request)
        wish, options = _read(body)
        notes = [*self._site.notes_on(options["model"] or self._site.model.slug), *_idle(body)]
        context = {"face": "openai", "request_id": request.state.request_id}
        origin, key = Origin(context=context), request.headers.get(KEY)
        (first,) = await self._site.runs([wish], origin, key=key, notes=notes)
        # Picture i has the seed of the first and i more, as everywhere here.
        wishes = [
            {**wish, "seed": (first.parameters.seed + i) % 2**32} for i in range(options["n"])
        ]
        runs = await self._site.runs(wishes, origin, notes=notes)
        async with self._answers.once(request, body, runs) as earlier:
            if earlier is None:
                await self._site.runner.submit_all(runs)
            runs = earlier or runs
            try:
                await self._all_done(request, runs)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    for run in runs:
                        if self._site.runner.find(run.id):
                            await self._site.runner.cancel(run)
                raise
        url: str = request.state.url
        data = [await self._picture(run, options, url) for run in runs]
        return JSONResponse(
            {"created": int(time.time()), "data": data, "output_format": options["output_format"]}
        )

    async def _all_done(self, request: Request, runs: list[Run]) -> None:
        """Waits for the runs, no longer than the client and the server are there.

        Raises:
            SdxlLightningError: Why there is no picture.
        """
        gone = False

        async def watch(scope: anyio.CancelScope) -> None:
            nonlocal gone
            # The body is read: what comes now is that the client has gone.
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone = True
            scope.cancel()

        async def end(scope: anyio.CancelScope) -> None:
            await self._site.runner.closed.wait()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, tasks.cancel_scope)
            tasks.start_soon(end, tasks.cancel_scope)
            for run in runs:
                async for _ in run.updates():
                    pass
            tasks.cancel_scope.cancel()
        if gone:
            raise Refusal(499, "client_gone", "The client went away; its pictures were canceled.")
        for run in runs:
            if not run.done:
                raise Refusal(
                    503, "closing", "The server ended first.", headers={"Retry-After": "5"}
                )
            await run.finished()

    async def _picture(self, run: Run, options: Mapping[str, Any], url: str) -> dict[str, Any]:
        facts = {"seed": run.parameters.seed, "run_id": run.id, "notes": run.notes}
        kind = options["output_format"]
        if options["response_format"] == "url":
            more = "" if kind == "jpeg" else f"&format={kind}"
            return {"url": image_link(run, url, self._site.links) + more, **facts}
        assert run.path is not None
        content = await anyio.to_thread.run_sync(converted, Path(run.path), None, kind)
        return {"b64_json": base64.b64encode(content).decode("ascii"), **facts}


def _idle(body: Mapping[str, Any]) -> list[str]:
    """What is to be said of words that are understood and change nothing here."""
    said = [name for name in FIXED if body.get(name) not in (None, False, "auto")]
    return [f"{' and '.join(said)}: nothing here depends on it."] if said else []


def _read(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What OpenAI's words mean: a wish, and how it is to be answered.

    Raises:
        InvalidRequestError: With every word that cannot be met.
    """
    problems: list[Problem] = []

    def choose(name: str, allowed: str, default: object, good: bool) -> Any:
        value = body.get(name)
        if value is None or good:
            return default if value is None else value
        problems.append(Problem(name, repr(value)[:60], allowed))
        return default

    n, size = body.get("n"), body.get("size")
    whole = isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= MOST_PICTURES
    sized = SIZE.fullmatch(size) if isinstance(size, str) else None
    options = {
        "model": choose("model", "a text", None, isinstance(body.get("model"), str)),
        "n": choose("n", f"1 to {MOST_PICTURES}", 1, whole),
        "size": choose("size", "WIDTHxHEIGHT or auto", "auto", size == "auto" or sized is not None),
        "response_format": choose(
            "response_format",
            "url or b64_json",
            "url",
            body.get("response_format") in ("url", "b64_json"),
        ),
        "output_format": choose(
            "output_format", ", ".join(FORMATS), "jpeg", body.get("output_format") in [*FORMATS]
        ),
        "user": choose("user", "a text", None, isinstance(body.get("user"), str)),
    }
    for name, allowed in FIXED.items():
        choose(name, " or ".join(map(str, allowed)), None, body.get(name) in allowed)
    wish = {name: value for name, value in body.items() if name not in (*OWN, *FIXED)}
    problems += [
        Problem(side, "it instead of the size", "size: WIDTHxHEIGHT")
        for side in ("width", "height")
        if wish.pop(side, None) is not None
    ]
    if sized:
        wish |= {"width": int(sized[1]), "height": int(sized[2])}
    for name in wish:
        if name not in GenerationRequest.model_fields:
            known = [*GenerationRequest.model_fields, *OWN, *FIXED]
            close = tuple(difflib.get_close_matches(name, known, n=1))
            problems.append(Problem(name[:60], "an unknown field", ", ".join(known), close))
    if problems:
        raise InvalidRequestError(*problems)
    return wish, options
