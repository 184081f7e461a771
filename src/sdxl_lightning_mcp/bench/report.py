"""What was measured: for people as a table, for machines as JSON."""

import itertools
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sdxl_lightning_mcp.bench.figures import Figure, Load, Section, shown
from sdxl_lightning_mcp.errors import StorageError

SOFTWARE = ("torch", "diffusers", "mcp")


@dataclass
class Report:
    """Figures and loads in the order in which they are shown."""

    machine: dict[str, str]
    figures: list[Figure] = field(default_factory=list[Figure])
    loads: list[Load] = field(default_factory=list[Load])

    def add(self, section: Section, name: str, value: float | str, unit: str = "") -> None:
        """One more figure."""
        self.figures.append(Figure(section, name, value, unit))

    @property
    def rows(self) -> list[Figure]:
        """Every figure, and a row for each load, by section."""
        machine = [Figure(Section.MACHINE, name, value) for name, value in self.machine.items()]
        return _by_section([*machine, *self.figures, *map(_row, self.loads)])

    def __str__(self) -> str:
        lines: list[str] = []
        width = max(len(row.name) for row in self.rows)
        for section, rows in itertools.groupby(self.rows, key=lambda row: row.section):
            lines += [section, *(f"  {row.name:{width}}  {row}" for row in rows), ""]
        return "\n".join(lines[:-1])

    def as_json(self) -> str:
        """All figures unrounded, and every latency; a line for each figure and each load."""
        loads = [
            {
                "way": load.way,
                "clients": load.clients,
                "share": load.share,
                "rate": load.rate,
                "pictures": len(load.latencies),
                "seconds": load.seconds,
                "pictures_a_second": load.pictures_a_second,
                **{f"p{percent}": load.percentile(percent) for percent in (50, 95, 99)},
                "latencies": [round(seconds, 5) for seconds in load.latencies],
            }
            for load in self.loads
        ]
        parts = {
            "machine": json.dumps(self.machine, indent=1),
            "figures": _lines(asdict(figure) for figure in _by_section(self.figures)),
            "loads": _lines(loads),
        }
        return "{\n" + ",\n".join(f'"{name}": {part}' for name, part in parts.items()) + "\n}\n"


def _by_section(figures: Iterable[Figure]) -> list[Figure]:
    return sorted(figures, key=lambda figure: [*Section].index(figure.section))


def _lines(items: Iterable[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(f" {json.dumps(item)}" for item in items) + "\n]"


def _row(load: Load) -> Figure:
    p95 = shown(load.percentile(95))
    text = f"{shown(load.pictures_a_second)} pictures/s, p95 {p95} s"
    if load.share is None:
        name = f"{load.way}, {load.clients} client{'s' * (load.clients != 1)}"
        return Figure(Section.CLIENTS, name, text)
    return Figure(Section.ARRIVALS, f"{load.way}, Poisson at {load.share:.0%} of capacity", text)


def this_machine() -> dict[str, str]:
    """What the figures hold for."""
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "software": ", ".join(f"{name} {version(name)}" for name in SOFTWARE),
    }


def write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all. Raises StorageError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error
