"""Writes what is generated: llms.txt, and tables of settings and figures in README and docs.

The tests hold the files against what this would write.
"""

import json
import re
from pathlib import Path

from sdxl_lightning_mcp.faces.discovery import llms_txt
from sdxl_lightning_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def documents() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    readme = _filled(
        ROOT / "README.md",
        settings=settings_table(),
        figures=figures_table(BENCHMARKS / "first_light.json"),
    )
    models = _filled(
        ROOT / "docs" / "models.md", **{"full size": figures_table(BENCHMARKS / "full_size.json")}
    )
    return {
        ROOT / "README.md": readme,
        ROOT / "docs" / "models.md": models,
        ROOT / "llms.txt": llms_txt(),
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


def settings_table() -> str:
    """The settings as a Markdown table."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else field.default
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def figures_table(path: Path) -> str:
    """The committed figures of a benchmark as a Markdown table."""
    figures = json.loads(path.read_text("utf-8"))
    rows = ["| what | measured |", "|---|---|"]
    rows += [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, "utf-8")
