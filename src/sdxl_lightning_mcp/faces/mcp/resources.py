"""What can be read: the model spec, llms.txt and the skill."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    TextResourceContents,
)

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.faces import discovery
from sdxl_lightning_mcp.faces.mcp.result import Context

SKILL_URI = "skill://sdxl-lightning/SKILL.md"


@dataclass(frozen=True)
class _Page:
    """A text an agent can read, made when it is asked for."""

    resource: Resource
    text: Callable[[], str]


class Resources:
    """The resources of one served model."""

    def __init__(self, model: Model) -> None:
        self._pages = {page.resource.uri: page for page in _pages(model)}

    async def list(self, _: Context, __: PaginatedRequestParams | None) -> ListResourcesResult:
        """Answers `resources/list`."""
        return ListResourcesResult(resources=[page.resource for page in self._pages.values()])

    async def list_templates(
        self, _: Context, __: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        """Answers `resources/templates/list`."""
        return ListResourceTemplatesResult(resource_templates=[])

    async def read(self, _: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """Answers `resources/read`."""
        page = self._pages.get(str(params.uri))
        if page is None:
            known = ", ".join(self._pages)
            raise MCPError(INVALID_PARAMS, f"Unknown resource: {params.uri}; there are: {known}")
        contents = TextResourceContents(
            uri=params.uri, mime_type=page.resource.mime_type, text=page.text()
        )
        return ReadResourceResult(contents=[contents])


def _pages(model: Model) -> tuple[_Page, ...]:
    def page(uri: str, name: str, title: str, mime_type: str, text: Callable[[], str]) -> _Page:
        return _Page(Resource(uri=uri, name=name, title=title, mime_type=mime_type), text)

    def spec() -> str:
        return json.dumps(discovery.model_spec(model), indent=2)

    return (
        page(
            f"sdxl-lightning://models/{model.slug}",
            "model-spec",
            f"Model spec of {model.title}",
            "application/json",
            spec,
        ),
        page("sdxl-lightning://llms.txt", "llms.txt", "llms.txt", "text/plain", discovery.llms_txt),
        page(
            SKILL_URI, "sdxl-lightning", "How to use this server", "text/markdown", discovery.skill
        ),
    )
