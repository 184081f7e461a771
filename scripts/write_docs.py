"""Writes what is generated: llms.txt, server.json, tables of settings and figures in the docs.

The tests hold the files against what this would write.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl_lightning_mcp import __version__
from sdxl_lightning_mcp.bench.figures import Figure
from sdxl_lightning_mcp.faces.discovery import llms_txt
from sdxl_lightning_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
# The README says it too: by that the registry knows that the package is ours.
REGISTRY_NAME = "io.github.sdxl-lightning-mcp/sdxl-lightning-mcp"
# So begin the descriptions of settings that only `serve` has.
OF_SERVE = "`serve`: "
# What the README tells of a report of `sdxl-lightning-mcp bench`; docs/performance.md tells all.
TOLD = (
    "pictures",
    "device",
    "spawn to initialize, p50 of 15, s",
    "spawn to initialize, of a hello-world server, p50 of 15, s",
    "MCP over stdio, process start to picture",
    "MCP over stdio, p50",
    "MCP over stdio, p95",
    "MCP over stdio / engine call",
    "engine call / plain pipeline, bfloat16",
    "engine call / plain pipeline, float32",
    "at once / one by one",
    "first answer / total",
    "MCP over stdio / plain pipeline with a lock, p95",
    "longest wait of the server's event loop until the first picture",
    "from cancel to free device, less one step, p50",
    "largest result, characters",
    "latents equal to the pipeline's, bit for bit",
)
# And of benchmarks/shared_engine.py, which docs/scaling.md tells in full.
TOLD_OF_SHARING = (
    "one engine for all: memory of each client after the first",
    "an engine each: memory of each client after the first",
    "one engine for all: client 2 / client 1, start to picture",
)


def documents() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    measured = (BENCHMARKS / "bench.json", BENCHMARKS / "first_light.json")
    shared = BENCHMARKS / "shared_engine.json"
    figures = figures_table(*measured, only=TOLD)
    if shared.exists():
        figures += _rows(figures_table(shared, only=TOLD_OF_SHARING))
    readme = _filled(ROOT / "README.md", settings=settings_table(), figures=figures)
    performance = _filled(
        ROOT / "docs" / "performance.md",
        figures=figures_table(*measured),
        acceleration=figures_table(BENCHMARKS / "acceleration.json"),
    )
    models = _filled(
        ROOT / "docs" / "models.md", **{"full size": figures_table(BENCHMARKS / "full_size.json")}
    )
    remote, ray = BENCHMARKS / "remote.json", BENCHMARKS / "ray_serve.json"
    scaling = _filled(
        ROOT / "docs" / "scaling.md",
        **{"shared engine": figures_table(shared) if shared.exists() else "Not measured yet.\n"},
        remote=figures_table(remote) if remote.exists() else "Not measured yet.\n",
        ray=figures_table(ray) if ray.exists() else "Not measured yet.\n",
    )
    over_http = BENCHMARKS / "over_http.json"
    http = _filled(
        ROOT / "docs" / "http.md",
        settings=settings_table(of_serve=True),
        figures=figures_table(over_http) if over_http.exists() else "Not measured yet.\n",
    )
    regions = _filled(
        ROOT / "examples" / "regions" / "README.md",
        figures=scenarios_table(BENCHMARKS / "failover.json"),
    )
    return {
        ROOT / "README.md": readme,
        ROOT / "docs" / "http.md": http,
        ROOT / "examples" / "regions" / "README.md": regions,
        ROOT / "docs" / "models.md": models,
        ROOT / "docs" / "performance.md": performance,
        ROOT / "docs" / "scaling.md": scaling,
        ROOT / "llms.txt": llms_txt(),
        ROOT / "server.json": json.dumps(server_json(), indent=2) + "\n",
    }


def server_json() -> dict[str, Any]:
    """What the MCP registry is told of us."""
    return {
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": REGISTRY_NAME,
        "title": "SDXL-Lightning",
        "description": "Gives agents pictures: SDXL-Lightning's architecture on your own machine.",
        "version": __version__,
        "packages": [
            {
                "registryType": "pypi",
                "identifier": "sdxl-lightning-mcp",
                "version": __version__,
                "runtimeHint": "uvx",
                "transport": {"type": "stdio"},
                "environmentVariables": [
                    {
                        "name": PREFIX + name.upper(),
                        "description": field.description,
                        **({} if field.default in (None, ()) else {"default": str(field.default)}),
                    }
                    for name, field in Settings.model_fields.items()
                    # This entry is about stdio.
                    if not (field.description or "").startswith(OF_SERVE)
                ],
            }
        ],
    }


def _filled(path: Path, **tables: str) -> str:
    """A page with its generated tables as they should be."""
    page = path.read_text("utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- {name}: made by scripts/write_docs.py -->", f"<!-- end of {name} -->"
        between = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        page, found = between.subn(lambda match, t=table: f"{match[1]}{t}{match[2]}", page)
        assert found == 1, f"{path.name} has no place for {name}"
    return page


def settings_table(*, of_serve: bool = False) -> str:
    """The settings as a Markdown table: those of `serve`, or all others."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else field.default
        text = field.description or ""
        if text.startswith(OF_SERVE) is of_serve:
            told = text.removeprefix(OF_SERVE)
            rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {told[0].upper()}{told[1:]} |")
    return "\n".join(rows) + "\n"


def figures_table(*paths: Path, only: Sequence[str] = ()) -> str:
    """The committed figures of benchmarks as a Markdown table; all, or those of these names."""
    figures: dict[str, Any] = {}
    for path in paths:
        figures |= _flat(json.loads(path.read_text("utf-8")))
    rows = ["| what | measured |", "|---|---|"]
    rows += [f"| {name} | {figures[name]} |" for name in only or figures]
    return "\n".join(rows) + "\n"


def scenarios_table(path: Path) -> str:
    """Committed figures that each of several scenarios has, as a Markdown table."""
    scenarios: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8"))
    names = [*next(iter(scenarios.values()))]
    rows = [f"| | {' | '.join(scenarios)} |", "|---" * (len(scenarios) + 1) + "|"]
    rows += [
        f"| {name} | {' | '.join(told[name] for told in scenarios.values())} |" for name in names
    ]
    return "\n".join(rows) + "\n"


def _rows(table: str) -> str:
    """A table's rows without its head."""
    return "".join(table.splitlines(keepends=True)[2:])


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Figures by name: as they are, or of a report of `sdxl-lightning-mcp bench`.

    Of that the loads are left out, which its plot shows.
    """
    if "figures" not in content:
        return content
    figures = [Figure(**figure) for figure in content["figures"]]
    return {**content["machine"], **{figure.name: str(figure) for figure in figures}}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, "utf-8")
