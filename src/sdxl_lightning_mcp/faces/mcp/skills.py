"""The skill by SEP-2640, Skills over MCP: enumerated, with digests, its folder readable."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp_types import INVALID_PARAMS, PaginatedRequestParams, RequestParams

from sdxl_lightning_mcp.faces.discovery import skill_folder
from sdxl_lightning_mcp.faces.mcp.result import Context

EXTENSION = "io.modelcontextprotocol/skills"
# The files change with the package only, and so with the process.
FRESH: dict[str, Any] = {"ttlMs": 3_600_000, "cacheScope": "public"}
_FOLDER = "inode/directory"
_TYPES = {".md": "text/markdown", ".txt": "text/plain", ".json": "application/json"}


@dataclass(frozen=True)
class SkillFile:
    """One file of a skill, as a resource."""

    uri: str
    path: Path

    @property
    def mime_type(self) -> str:
        """The type of its text; skills have no other files here."""
        return _TYPES[self.path.suffix]


class _ByUri(RequestParams):
    uri: str


class _PageByUri(PaginatedRequestParams):
    uri: str


class Skill:
    """The skill that the package brings."""

    def __init__(self) -> None:
        folder = skill_folder()
        self.uri = f"skill://{folder.name}/SKILL.md"
        self.files = [
            SkillFile(f"skill://{folder.name}/{path.relative_to(folder).as_posix()}", path)
            for path in sorted(folder.rglob("*"), key=lambda path: (path.name != "SKILL.md", path))
            if path.is_file()
        ]
        self.frontmatter = _frontmatter(folder / "SKILL.md")

    def serve(self, server: Server[Any]) -> None:
        """Adds the extension's methods, and says that they are there."""
        server.extensions[EXTENSION] = {"directoryRead": True}
        server.add_request_handler("skills/list", PaginatedRequestParams, self._list)
        server.add_request_handler("skills/get", _ByUri, self._get)
        server.add_request_handler("resources/directory/read", _PageByUri, self._read_folder)

    async def _list(self, _: Context, __: PaginatedRequestParams) -> dict[str, Any]:
        return {"skills": [self._entry()], **FRESH}

    async def _get(self, _: Context, params: _ByUri) -> dict[str, Any]:
        if params.uri != self.uri:
            raise MCPError(INVALID_PARAMS, f"No skill is at {params.uri}; there is: {self.uri}")
        return {"skill": self._entry(), **FRESH}

    async def _read_folder(self, _: Context, params: _PageByUri) -> dict[str, Any]:
        prefix = params.uri.rstrip("/") + "/"
        children: dict[str, dict[str, str]] = {}
        for file in self.files:
            name, deeper, _rest = file.uri.removeprefix(prefix).partition("/")
            if file.uri.startswith(prefix):
                kind = _FOLDER if deeper else file.mime_type
                children[name] = {"uri": prefix + name, "name": name, "mimeType": kind}
        if not children:
            raise MCPError(INVALID_PARAMS, f"No folder is at {params.uri}")
        return {"resources": [*children.values()], **FRESH}

    def _entry(self) -> dict[str, Any]:
        contents = [(file.uri, file.path.read_bytes()) for file in self.files]
        return {
            "uri": self.uri,
            "frontmatter": self.frontmatter,
            "resources": [
                {
                    "uri": uri,
                    "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
                    "size": len(content),
                }
                for uri, content in contents
            ],
        }


def _frontmatter(path: Path) -> dict[str, str]:
    """What stands between the first two lines of dashes: a name and a text in each line."""
    _, head, _ = path.read_text("utf-8").split("---\n", 2)
    pairs = (line.partition(": ") for line in head.splitlines())
    return {name: text for name, _, text in pairs}
