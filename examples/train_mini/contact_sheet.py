"""Draws the fixed prompts with a pipeline folder and lays them out on one labelled sheet."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # do not spin where cores are shared

import torch
from artist import load_pipeline
from grid import draw_grid
from prompts import PROMPTS

LIMIT = 900_000  # bytes of the JPEG


def main() -> None:
    """Read the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path, help="an exported pipeline folder")
    parser.add_argument("output", type=Path, help="the JPEG to write")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="prompt k is drawn with seed + k")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    pipeline = load_pipeline(options.pipeline, getattr(torch, options.dtype))
    pictures = []
    for k, prompt in enumerate(PROMPTS):
        generator = torch.Generator().manual_seed(options.seed + k)
        drawn = pipeline(
            prompt, num_inference_steps=options.steps, guidance_scale=0.0, generator=generator
        )
        pictures.append(drawn.images[0])
    sheet = draw_grid(pictures, PROMPTS)
    for quality in range(92, 20, -4):
        data = io.BytesIO()
        sheet.save(data, "JPEG", quality=quality, optimize=True)
        if data.tell() <= LIMIT:
            break
    options.output.write_bytes(data.getvalue())
    print(f"{options.output}: {sheet.width} x {sheet.height} px, {data.tell():,} bytes")


if __name__ == "__main__":
    main()
