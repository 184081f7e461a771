"""SDXL at its full size with random weights: opening it, its memory, one small picture.

Speed and memory do not depend on what the numbers are, so nothing is downloaded. The files have
the real ones' names, types, shapes and sizes; writing them once takes a minute and 7 GB of disk.

    python benchmarks/full_size.py FOLDER [--device auto] [--json FILE]

Each figure is of a process of its own. Opening is compared with a plain read of the same files,
both from a warm disk cache.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

GIB = 2**30
SIDE, STEPS = 256, 1


def main() -> None:
    """Writes the files if they are not there, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.dtype:
        print(json.dumps(measure(given.folder, given.device, given.dtype)))
        return
    if not (given.folder / "model_index.json").exists():
        write(given.folder)
    plain_read(given.folder)  # warms the disk's cache
    figures: dict[str, Any] = {"plain read, GiB/s": round(plain_read(given.folder), 2)}
    for dtype in ("float32", "bfloat16"):
        command = [sys.executable, __file__, given.folder, "--device", given.device]
        ended = subprocess.run(
            [*command, "--dtype", dtype], stdout=subprocess.PIPE, text=True, check=True
        )
        measured = json.loads(ended.stdout.splitlines()[-1])
        figures |= {f"{dtype}: {name}": value for name, value in measured.items()}
    for name, value in figures.items():
        print(f"{name}: {value}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def write(folder: Path) -> None:
    """Random weights in the format of SDXL base's repository, at its size."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from synthetic import write_base
    from synthetic.scale import REAL

    write_base(folder, size=REAL)


def plain_read(folder: Path) -> float:
    """GiB/s of reading the weight files into one buffer."""
    buffer = bytearray(16 * 2**20)
    read, started = 0, time.perf_counter()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                read += count
    return read / GIB / (time.perf_counter() - started)


def measure(folder: Path, device: str, dtype: str) -> dict[str, Any]:
    """Opens the model in that data type and draws one small picture."""
    import torch

    from sdxl_lightning_mcp.engine.estimate import Estimator
    from sdxl_lightning_mcp.engine.sdxl import Sdxl
    from sdxl_lightning_mcp.engine.tuning import tune
    from sdxl_lightning_mcp.request import Parameters
    from sdxl_lightning_mcp.selection import select

    model = select(str(folder))
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    tuning = replace(tune(device), dtype=getattr(torch, dtype))
    with peak_memory() as opening:
        started = time.perf_counter()
        sdxl = Sdxl.open(model.checkpoint, tuning)
        seconds = time.perf_counter() - started
    parameters = Parameters(
        model=model.slug,
        checkpoint=model.checkpoint.name,
        prompt="a lighthouse in a storm",
        negative_prompt="",
        seed=0,
        width=SIDE,
        height=SIDE,
        guidance=0.0,
        steps=STEPS,
    )
    expected = Estimator(sdxl).seconds(parameters)
    with peak_memory() as drawing:
        started = time.perf_counter()
        sample = sdxl.prepare("a", parameters)
        while not sample.denoised:
            sdxl.denoise([sample])
        sdxl.decode(sample)
        took = time.perf_counter() - started
    networks = sdxl.held.networks
    every = (networks.unet, networks.vae, *networks.text_encoders)
    weights = sum(tensor.nbytes for network in every for tensor in network.parameters())
    return {
        "tuning": str(sdxl.tuning),
        "weights, GiB": round(weights / GIB, 2),
        "opening, s": round(seconds, 1),
        "opening, GiB of files a second": round(size / GIB / seconds, 2),
        "peak while opening, GiB": round(opening[0] / GIB, 2),
        "peak while opening / weights": round(opening[0] / weights, 2),
        f"{SIDE}x{SIDE}, {STEPS} step, s": round(took, 1),
        "the same as expected beforehand, s": round(expected, 1),
        "peak while drawing, GiB": round(drawing[0] / GIB, 2),
    }


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The most memory of its own that this process has held: not the disk's cache behind files."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def own_memory() -> int:
    """Bytes of anonymous memory (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no RssAnon in the status of process {os.getpid()}")


if __name__ == "__main__":
    main()
