"""The runs API, second half: runs are followed, stopped, looked at, removed and summed up."""

from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from sse_starlette import EventSourceResponse

from sdxl_lightning_mcp.errors import RunCanceledError
from sdxl_lightning_mcp.faces.http.access import caller
from sdxl_lightning_mcp.faces.http.events import MEDIA_TYPE, events
from sdxl_lightning_mcp.faces.http.pictures import FORMATS, converted
from sdxl_lightning_mcp.faces.http.problems import Refusal, refusal
from sdxl_lightning_mcp.faces.http.replies import (
    RunReply,
    RunsReply,
    UsageReply,
    run_reply,
)
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.faces.http.spec import answers
from sdxl_lightning_mcp.ids import RUN_ID, check_region
from sdxl_lightning_mcp.run import Run, Status

ID = f"^{RUN_ID}$"


class Runs:
    """The routes of runs that there are, over one site."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def router(self) -> APIRouter:
        """The routes, with what the OpenAPI file says of them."""
        router = APIRouter(prefix="/v1", tags=["runs"])
        route = router.add_api_route
        route(
            "/runs",
            self.list,
            operation_id="listRuns",
            summary="The newest runs",
            responses=answers(RunsReply, 200, refused=(404, 422)),
        )
        route(
            "/runs/{run_id}",
            self.get,
            operation_id="getRun",
            summary="One run",
            responses=answers(RunReply, 200, refused=(404,)),
        )
        route(
            "/runs/{run_id}",
            self.delete,
            methods=["DELETE"],
            operation_id="deleteRun",
            summary="Forget a finished run and its picture",
            responses=answers(None, 204, refused=(404, 409)),
            status_code=204,
            response_class=Response,
        )
        route(
            "/runs/{run_id}/cancel",
            self.cancel,
            methods=["POST"],
            operation_id="cancelRun",
            summary="Stop a run",
            responses=answers(RunReply, 200, refused=(404,)),
        )
        route(
            "/runs/{run_id}/events",
            self.events,
            operation_id="followRun",
            summary="A run's progress as server-sent events",
            responses=answers(MEDIA_TYPE, 200, refused=(404,)),
            response_class=EventSourceResponse,
        )
        route(
            "/runs/{run_id}/image",
            self.image,
            operation_id="getImage",
            summary="A run's picture",
            responses=answers("image/*", 200, refused=(403, 404, 409, 410, 422)),
            response_class=Response,
        )
        route(
            "/usage",
            self.usage,
            operation_id="getUsage",
            summary="What the caller has used",
            responses=answers(UsageReply, 200, refused=(422,)),
        )
        return router

    async def list(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=500, description="How many.")] = 50,
        cursor: Annotated[
            str | None, Query(description="The `next` of the page before.", pattern=ID)
        ] = None,
        batch: Annotated[
            str | None, Query(description="Only those of a batch.", pattern=ID)
        ] = None,
    ) -> Response:
        """The caller's runs, the newest first."""
        owner = caller.get().owner

        def read() -> list[Run]:
            record, here = self._site.record, self._site.settings.region
            # What another region's server began to tell cannot be gone on with here.
            if cursor and not record.find(cursor):
                check_region(cursor, here)
            found = record.latest(limit + 1, before=cursor, owner=owner, batch=batch)
            if batch and not found:
                check_region(batch, here)
            return found

        found = await anyio.to_thread.run_sync(read)
        page = [self._site.runner.find(run.id) or run for run in found[:limit]]
        following = page[-1].id if len(found) > limit else None
        return JSONResponse(
            {"data": [self._reply(run, request) for run in page], "next": following}
        )

    async def get(self, run_id: str, request: Request) -> Response:
        """A run as it stands now."""
        return JSONResponse(self._reply(await self._site.find(run_id), request))

    async def delete(self, run_id: str) -> Response:
        """Removes a finished run from the record, and its picture from the disk."""
        run = await self._site.find(run_id)
        if not run.done:
            raise Refusal(409, "run_not_done", "The run is under way; cancel it first.")
        await anyio.to_thread.run_sync(self._site.record.forget, run)
        return Response(status_code=204)

    async def cancel(self, run_id: str, request: Request) -> Response:
        """Stops a run: at once where it waits, else at the next step. A finished one stays so."""
        run = await self._site.find(run_id)
        if self._site.runner.find(run_id):
            await self._site.runner.cancel(run)
        return JSONResponse(self._reply(run, request))

    async def events(self, run_id: str, request: Request) -> Response:
        """Events named by the run's status with its progress, then `done` with the whole run."""
        return events(self._site, await self._site.find(run_id), request.state.url)

    async def image(
        self,
        run_id: str,
        request: Request,
        width: Annotated[
            int | None, Query(ge=16, le=4096, description="A smaller one, so wide.")
        ] = None,
        format: Annotated[
            Literal["jpeg", "webp", "png"], Query(description="Its file format.")
        ] = "jpeg",
        expires: Annotated[str, Query(description="Of a signed link.", pattern=r"^\d{0,12}$")] = "",
        signature: Annotated[str, Query(description="Of a signed link.")] = "",
    ) -> Response:
        """The picture: the file as it was made, or a smaller one without its parameters."""
        run = await self._picture_of(run_id, expires, signature)
        assert run.path is not None
        name = f"{run.id}.{'jpg' if format == 'jpeg' else format}"
        headers = {
            "Content-Disposition": f'inline; filename="{name}"',
            "Cache-Control": "private, max-age=3600",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        if format == "jpeg" and (width is None or width >= run.parameters.width):
            return FileResponse(run.path, media_type="image/jpeg", headers=headers)
        content = await anyio.to_thread.run_sync(converted, run.path, width, format)
        return Response(content, headers=headers, media_type=FORMATS[format])

    async def usage(
        self,
        since: Annotated[
            str | None, Query(description="From this day on (UTC).", pattern=r"^\d{4}-\d\d-\d\d$")
        ] = None,
    ) -> Response:
        """What the caller's runs have used, by day; runs that are forgotten count too."""
        owner = caller.get().owner
        days = await anyio.to_thread.run_sync(self._site.record.usage, owner, since or "")
        for day in days:
            day["cost"] = round(day["cost"], 6)
        made = [day for day in days if day["status"] == Status.SUCCEEDED]
        return JSONResponse(
            {
                "runs": sum(day["runs"] for day in days),
                "pictures": sum(day["runs"] for day in made),
                "pixels": sum(day["pixels"] for day in days),
                "duration_ms": sum(day["duration_ms"] for day in days),
                "cost": round(sum(day["cost"] for day in days), 6),
                "days": days,
            }
        )

    def _reply(self, run: Run, request: Request) -> dict[str, Any]:
        return run_reply(run, request.state.url, self._site.links)

    async def _picture_of(self, run_id: str, expires: str, signature: str) -> Run:
        if signature:
            run = self._site.runner.find(run_id) or await anyio.to_thread.run_sync(
                self._site.record.find, run_id
            )
            if run is None:
                check_region(run_id, self._site.settings.region)
            self._site.links.check(run_id, run and run.origin.owner, expires, signature)
        run = await self._site.find(run_id)
        if not run.done:
            raise Refusal(
                409, "run_not_done", "The picture is not there yet.", headers={"Retry-After": "1"}
            )
        if run.error or run.path is None:
            raise refusal(run.error or RunCanceledError("The run has no picture."))
        if not run.path.is_file():
            raise Refusal(410, "picture_gone", "The picture's file was removed.")
        return run
