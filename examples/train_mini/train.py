"""Trains `mini`: run a stage, or `all` of them in order. See README.md beside this file."""

from __future__ import annotations

import argparse
import os
import random
from dataclasses import replace
from pathlib import Path

# Two processes of one thread each must not spin while they wait for one another.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# The training processes inherit these as well.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import transformers
from codec import PatchCodec
from dataset import render_all, training_pictures, write_dataset
from export import export
from presets import PRESETS, Preset
from specs import PlaceSpec
from stage_decoder import train_decoder
from stage_encoder import train_encoder
from stage_unet import train_unet
from tokenizer import learn_tokenizer

STAGES = (
    "tokenizer",
    "codec",
    "data",
    "unet",
    "cooldown",
    "decoder",
    "decoder-finetune",
    "encoder",
    "export",
)


def fit_codec(folder: Path, preset: Preset, processes: int) -> None:
    """Render some pictures and fit the linear codec to them."""
    rng = random.Random(3)
    pictures = training_pictures(preset)
    places = [picture for picture in pictures if isinstance(picture.spec, PlaceSpec)]
    objects = [picture for picture in pictures if not isinstance(picture.spec, PlaceSpec)]
    count = preset.codec_pictures // 3
    chosen = rng.sample(objects, min(count, len(objects))) + rng.sample(places, 2 * count)
    codec = PatchCodec.fit(np.stack(list(render_all(chosen, processes))))
    codec.save(folder / "codec.npz")
    print("codec: deviations", " ".join(f"{value:.2f}" for value in codec.deviation))


def run_stage(stage: str, options: argparse.Namespace) -> None:
    """Run one stage in the work folder."""
    folder, preset = options.work, PRESETS[options.scale]
    if options.batch:
        preset = replace(preset, unet_batch=options.batch)
    device, processes = options.device, options.processes
    if stage == "tokenizer":
        tokenizer = learn_tokenizer(folder / "tokenizer", preset.captions, preset.merges)
        print(f"tokenizer: {len(tokenizer)} tokens")
    elif stage == "codec":
        fit_codec(folder, preset, os.cpu_count() or 1)
    elif stage == "data":
        codec = PatchCodec.load(folder / "codec.npz")
        write_dataset(folder, preset, codec, os.cpu_count() or 1)
    elif stage in ("unet", "cooldown"):
        train_unet(folder, preset, device, processes, options.steps, cool=stage == "cooldown")
    elif stage in ("decoder", "decoder-finetune"):
        train_decoder(folder, preset, device, processes, finetune=stage == "decoder-finetune")
    elif stage == "encoder":
        train_encoder(folder, preset, device, processes)
    elif stage == "export":
        export(folder, options.output or folder / "pipeline")


def main() -> None:
    """Read the command line and run the stages asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, "all"))
    parser.add_argument("--work", type=Path, default=Path("train_mini_work"), help="work folder")
    parser.add_argument("--output", type=Path, help="export: the folder to write")
    parser.add_argument("--scale", choices=tuple(PRESETS), default="full", help="how much to do")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--processes", type=int, help="training processes (default 2; smoke and cuda: 1)"
    )
    parser.add_argument("--steps", type=int, help="unet: go on for so many steps; cooldown: in all")
    parser.add_argument("--batch", type=int, help="unet: pictures per process and step")
    options = parser.parse_args()
    one = options.device == "cuda" or options.scale == "smoke"
    options.processes = options.processes or (1 if one else 2)
    options.work.mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    for stage in STAGES if options.stage == "all" else (options.stage,):
        print(f"== {stage}", flush=True)
        run_stage(stage, options)


if __name__ == "__main__":
    main()
