"""What can be read: the model spec, the skill, the viewer, and the runs with their pictures."""

import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Annotations,
    BlobResourceContents,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.errors import SdxlLightningError, StorageError
from sdxl_lightning_mcp.faces import discovery
from sdxl_lightning_mcp.faces.mcp import viewer
from sdxl_lightning_mcp.faces.mcp.result import Context, Locate, facts_of
from sdxl_lightning_mcp.faces.mcp.runs import Runs, jpeg_of
from sdxl_lightning_mcp.faces.mcp.skills import Skill
from sdxl_lightning_mcp.run import Run, Status

RUNS = "sdxl-lightning://runs"
RUN_TEMPLATE, IMAGE_TEMPLATE = f"{RUNS}/{{id}}", f"{RUNS}/{{id}}/image"
TEMPLATES = (RUN_TEMPLATE, IMAGE_TEMPLATE)
LATEST = 20

_Told = TypeVar("_Told")


@dataclass(frozen=True)
class _Page:
    """A text an agent can read, made when it is asked for."""

    resource: Resource
    text: Callable[[Context], Awaitable[str]]


class Resources:
    """The resources of one served model and its runs."""

    def __init__(self, runs: Runs, model: Model, skill: Skill, locate: Locate) -> None:
        self._runs, self._locate = runs, locate
        self._viewer = _still(viewer.resource(), lambda: viewer.html(model))
        pages = (*_pages(model, skill), _Page(_recent_runs(), self._recent))
        self._pages = {page.resource.uri: page for page in pages}

    async def list(self, context: Context, _: PaginatedRequestParams | None) -> ListResourcesResult:
        """Answers `resources/list`; the viewer is listed for those only who can show it."""
        listed = [page.resource for page in self._pages.values()]
        if viewer.is_shown_by(context):
            listed.append(self._viewer.resource)
        return ListResourcesResult(resources=listed)

    async def list_templates(
        self, _: Context, __: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        """Answers `resources/templates/list`."""
        facts = ResourceTemplate(
            uri_template=RUN_TEMPLATE,
            name="run",
            title="A run's facts",
            description="What was asked for, what came of it, its notes, its file.",
            mime_type="application/json",
        )
        image = ResourceTemplate(
            uri_template=IMAGE_TEMPLATE,
            name="image",
            title="A run's picture",
            description="The whole JPEG file, with its parameters inside.",
            mime_type="image/jpeg",
        )
        return ListResourceTemplatesResult(resource_templates=[facts, image])

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """Answers `resources/read`."""
        uri = str(params.uri)
        page = self._viewer if uri == viewer.URI else self._pages.get(uri)
        if page is not None:
            resource, text = page.resource, await _told(uri, page.text(context))
            contents = TextResourceContents(
                uri=uri, mime_type=resource.mime_type, text=text, _meta=resource.meta
            )
            return ReadResourceResult(contents=[contents])
        if not uri.startswith(f"{RUNS}/"):
            known = ", ".join([*self._pages, *TEMPLATES])
            raise _not_there(uri, f"Unknown resource: {uri}; there are: {known}")
        return ReadResourceResult(contents=[await _told(uri, self._read_run(context, uri))])

    async def _read_run(
        self, context: Context, uri: str
    ) -> TextResourceContents | BlobResourceContents:
        run_id = uri.removeprefix(f"{RUNS}/")
        run = await self._runs.find(context, run_id.removesuffix("/image"))
        if not run_id.endswith("/image"):
            text = json.dumps(self._facts(context, run), indent=2)
            return TextResourceContents(uri=uri, mime_type="application/json", text=text)
        if run.error is not None:
            raise run.error
        if run.status is not Status.SUCCEEDED:
            raise _not_there(uri, f"Run {run.id} has no picture yet: {run.message}.")
        blob = base64.b64encode(await jpeg_of(run)).decode("ascii")
        return BlobResourceContents(uri=uri, mime_type="image/jpeg", blob=blob)

    async def _recent(self, context: Context) -> str:
        listed = [self._facts(context, run) for run in await self._runs.latest(context, LATEST)]
        for facts in listed:
            # Much the same with every run, and long; each run's own page has them.
            del facts["notes"]
        return json.dumps(listed, indent=2)

    def _facts(self, context: Context, run: Run) -> dict[str, Any]:
        return facts_of(run, self._locate(context, run) if run.path else None)


def _not_there(uri: str, message: str) -> MCPError:
    # The number and the data are those of SEP-2164.
    return MCPError(INVALID_PARAMS, message, {"uri": uri})


async def _told(uri: str, reading: Awaitable[_Told]) -> _Told:
    """What is read; our errors become those of the protocol."""
    try:
        return await reading
    except StorageError as error:
        raise MCPError(INTERNAL_ERROR, str(error)) from None
    except SdxlLightningError as error:
        raise _not_there(uri, str(error)) from None


def _still(resource: Resource, text: Callable[[], str]) -> _Page:
    async def read(_: Context) -> str:
        return text()

    return _Page(resource, read)


def _recent_runs() -> Resource:
    return Resource(
        uri=RUNS,
        name="runs",
        title="Recent runs",
        description=f"The newest {LATEST} runs with their ids, parameters and files.",
        mime_type="application/json",
    )


def _pages(model: Model, skill: Skill) -> list[_Page]:
    spec = Resource(
        uri=f"sdxl-lightning://models/{model.slug}",
        name="model-spec",
        title=f"Model spec of {model.title}",
        description="Fields, limits, sizes that work best, weights, licence.",
        mime_type="application/json",
    )
    llms = Resource(
        uri="sdxl-lightning://llms.txt", name="llms.txt", title="llms.txt", mime_type="text/plain"
    )
    pages = [
        _still(spec, lambda: json.dumps(discovery.model_spec(model), indent=2)),
        _still(llms, discovery.llms_txt),
    ]
    for file in skill.files:
        # The names are those that the extension wants.
        described = skill.frontmatter if file.uri == skill.uri else {"name": file.path.name}
        resource = Resource(
            uri=file.uri,
            name=described["name"],
            description=described.get("description"),
            mime_type=file.mime_type,
            annotations=Annotations(audience=["assistant"]),
        )
        pages.append(_still(resource, lambda path=file.path: path.read_bytes().decode("utf-8")))
    return pages
