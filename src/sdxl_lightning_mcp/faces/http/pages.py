"""What people and agents read: the docs page with its form, llms.txt, skills, OpenAPI."""

import hashlib
import html
import json
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.responses import RedirectResponse

from sdxl_lightning_mcp.faces import discovery
from sdxl_lightning_mcp.faces.http.access import RESOURCE_METADATA
from sdxl_lightning_mcp.faces.http.problems import Refusal
from sdxl_lightning_mcp.faces.http.site import Site
from sdxl_lightning_mcp.faces.http.spec import EXAMPLE, openapi

SKILLS = "/.well-known/agent-skills"
SKILLS_SCHEMA = "https://schemas.agentskills.io/discovery/0.2.0/schema.json"
SPEC = "/api/openapi.public.json"
# Nothing but this server's own files and pictures; no script in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ASSETS = {
    "page.js": ("http/page", "text/javascript; charset=utf-8"),
    "page.css": ("http/page", "text/css; charset=utf-8"),
    "icon.png": ("mcp", "image/png"),
}


class Pages:
    """The routes for those who want to know before they call."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._app: FastAPI | None = None

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes; they are about the interface and no part of it, nor of its file."""
        self._app = app
        slug = self._site.model.slug
        router = APIRouter(include_in_schema=False)
        route = router.add_api_route
        route("/", self.home)
        route("/llms.txt", self.llms)
        route("/models/{model:path}/llms.txt", self.model_llms)
        route("/docs/assets/{name}", self.asset)
        route("/docs/models/{model:path}", self.page)
        route(SPEC, self.spec)
        route(f"{SKILLS}/index.json", self.skills)
        route(discovery.SKILL_PATH.rpartition("/")[0] + "/{name:path}", self.skill)
        route(RESOURCE_METADATA, self.resource)
        route(RESOURCE_METADATA + "/mcp", self.resource)
        app.include_router(router)
        self._home = f"/docs/models/{slug}"

    async def home(self) -> Response:
        """To the docs page."""
        return RedirectResponse(self._home, 307)

    async def llms(self, request: Request) -> Response:
        """What this server is, for machines that read text."""
        return PlainTextResponse(discovery.llms_txt(self._server(request)))

    async def model_llms(self, model: str, request: Request) -> Response:
        """What one model is, for machines that read text."""
        self._site.notes_on(model)
        parts = discovery.model_text(self._site.model), discovery.http_text(self._server(request))
        return PlainTextResponse("\n\n".join([f"# {self._site.model.slug}", *parts]) + "\n")

    async def spec(self, request: Request) -> Response:
        """The OpenAPI file."""
        assert self._app is not None
        document = openapi(
            self._app,
            "sdxl-lightning-mcp",
            version("sdxl-lightning-mcp"),
            discovery.model_spec(self._site.model)["summary"],
            keys=await self._site.access.required(),
        )
        return JSONResponse({**document, "servers": [{"url": self._server(request)}]})

    async def skills(self) -> Response:
        """The index of skills (agent skills discovery), with the hash of what it names."""
        text = discovery.skill()
        skill = {
            "name": "sdxl-lightning",
            "type": "skill-md",
            "description": discovery.skill_description(),
            "url": discovery.SKILL_PATH,
            "digest": f"sha256:{hashlib.sha256(text.encode('utf-8')).hexdigest()}",
        }
        return JSONResponse({"$schema": SKILLS_SCHEMA, "skills": [skill]})

    async def skill(self, name: str) -> Response:
        """A file of the skill; it names the others beside it."""
        folder = discovery.skill_folder()
        known = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.md")}
        if name not in known:
            raise Refusal(404, "not_found", f"The skill has no file {name[:60]!r}.")
        content = known[name].read_text("utf-8")
        return Response(content, headers={"Content-Type": "text/markdown; charset=utf-8"})

    async def resource(self, request: Request) -> Response:
        """Who gives tokens for this server (RFC 9728)."""
        path = request.url.path.removeprefix(RESOURCE_METADATA)
        return JSONResponse(self._site.access.metadata(self._server(request), path))

    async def asset(self, name: str) -> Response:
        """The page's own script and style."""
        if name not in ASSETS:
            raise Refusal(404, "not_found", f"There is no {name[:60]!r}.")
        folder, kind = ASSETS[name]
        content = files("sdxl_lightning_mcp.faces").joinpath(folder, name).read_bytes()
        return Response(content, headers={"Content-Type": kind})

    async def page(self, model: str, request: Request) -> Response:
        """What the model is, how to call it, and a form to try it."""
        self._site.notes_on(model)
        template = files("sdxl_lightning_mcp.faces.http").joinpath("page", "page.html")
        needs_key = await self._site.access.required()
        filled = {
            "title": self._site.model.title,
            "summary": self._site.model.summary,
            "slug": self._site.model.slug,
            "server": self._server(request),
            "example": json.dumps({"input": EXAMPLE}),
            "license": str(self._site.model.checkpoint.license),
        }
        text = template.read_text("utf-8")
        for name, value in filled.items():
            text = text.replace(f"{{{{{name}}}}}", html.escape(value))
        text = text.replace("{{fields}}", _form(self._site.schema))
        text = text.replace("{{key}}", _KEY if needs_key else "")
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY})

    def _server(self, request: Request) -> str:
        return request.state.url


_KEY = '<label>API key<input name="key" type="password" autocomplete="off" required></label>'


def _form(schema: dict[str, Any]) -> str:
    """A labelled field for each of the request's, with its limits."""
    rows: list[str] = []
    for name, field in schema["properties"].items():
        hint = f'<small id="hint-{name}">{html.escape(field["description"])}</small>'
        shared = f'name="{name}" aria-describedby="hint-{name}"'
        if name in schema["required"]:
            shared += " required"
        if field["type"] == "string":
            control = f'<textarea {shared} maxlength="{field["maxLength"]}" rows="2"></textarea>'
        else:
            step = field.get("multipleOf", 1 if field["type"] == "integer" else "any")
            limits = f'min="{field["minimum"]}" max="{field["maximum"]}" step="{step}"'
            hint_value = f' placeholder="{field["default"]}"' if "default" in field else ""
            control = f'<input type="number" {shared} {limits}{hint_value}>'
        rows.append(f"<label>{name.replace('_', ' ').capitalize()}{control}</label>{hint}")
    return "\n".join(rows)
