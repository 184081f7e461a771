"""Writes what is generated: llms.txt, and the tables of settings and figures in the README.

The tests hold the files against what this would write.
"""

import json
import re
from pathlib import Path

from sdxl_lightning_mcp.faces.discovery import llms_txt
from sdxl_lightning_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "benchmarks" / "first_light.json"


def documents() -> dict[Path, str]:
    """Every generated file with the text it should have."""
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, table in (("settings", settings_table()), ("figures", figures_table())):
        begin, end = f"<!-- {name}: made by scripts/write_docs.py -->", f"<!-- end of {name} -->"
        between = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        readme, found = between.subn(lambda match, t=table: f"{match[1]}{t}{match[2]}", readme)
        assert found == 1, f"README.md has no place for {name}"
    return {ROOT / "README.md": readme, ROOT / "llms.txt": llms_txt()}


def settings_table() -> str:
    """The settings as a Markdown table."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def figures_table() -> str:
    """The committed figures of the benchmark as a Markdown table."""
    figures = json.loads(FIGURES.read_text("utf-8"))
    rows = ["| what | measured |", "|---|---|"]
    rows += [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, "utf-8")
