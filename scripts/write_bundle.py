"""Writes the MCPB bundle: this project as one file that a client installs with its own uv.

make mcpb      (or: python scripts/write_bundle.py build/sdxl-lightning-mcp.mcpb)
"""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from sdxl_lightning_mcp import CATALOGUE, __version__
from sdxl_lightning_mcp.faces.mcp.tools import descriptions
from sdxl_lightning_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
PACKED = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "src", "skills")
ICON = ROOT / "docs" / "icon.png"
# What a person is asked when installing; everything else has its default.
ASKED = {"model": "Model", "device": "Device"}


def manifest() -> dict[str, Any]:
    """The manifest of the bundle, from what the server says of itself.

    Every question has a default: what stays open, hosts leave in place as the name of a variable.
    """
    fields = Settings.model_fields
    return {
        "manifest_version": "0.4",
        "name": "sdxl-lightning-mcp",
        "display_name": "SDXL-Lightning",
        "version": __version__,
        "description": "Draws pictures from prompts on this machine.",
        "author": {"name": "The authors of sdxl-lightning-mcp"},
        "license": "Apache-2.0",
        "icon": ICON.name,
        "server": {
            "type": "uv",
            "entry_point": "src/sdxl_lightning_mcp/__main__.py",
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--no-dev", "--directory", "${__dirname}", "sdxl-lightning-mcp"],
                "env": {PREFIX + name.upper(): f"${{user_config.{name}}}" for name in ASKED},
            },
        },
        "tools": [
            {"name": name, "description": text}
            for name, text in descriptions(CATALOGUE["mini"]).items()
        ],
        "user_config": {
            name: {
                "type": "string",
                "title": title,
                "description": str(fields[name].description),
                "default": str(fields[name].default),
                "required": False,
            }
            for name, title in ASKED.items()
        },
        "compatibility": {
            "platforms": ["darwin", "linux"],
            "runtimes": {"python": ">=3.11"},
        },
    }


def write(target: Path) -> None:
    """Writes the bundle; the same sources make the same bytes."""
    contents = {
        "manifest.json": (json.dumps(manifest(), indent=2) + "\n").encode(),
        ICON.name: ICON.read_bytes(),
    }
    for name in PACKED:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                contents[file.relative_to(ROOT).as_posix()] = file.read_bytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in contents.items():
            bundle.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
    print(sys.argv[1])
