"""What each thing that makes the engine faster gains on this machine, on `mini` at 1024x1024.

python benchmarks/acceleration.py [--json FILE] [--rounds N]

What is compared is called in turn, in one process on the same weights and with memory kept as in
a worker; memory that is kept or given back is compared between processes, in turn as well. Ratios
are of medians. Nothing else should run.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.engine.acceleration.artefacts import Artefacts
from sdxl_lightning_mcp.engine.acceleration.float8 import round_linears
from sdxl_lightning_mcp.engine.holding import Holding
from sdxl_lightning_mcp.engine.memory import keep_memory
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import Tuning, tune
from sdxl_lightning_mcp.engine.weights import build_networks, fill_networks
from sdxl_lightning_mcp.image import QUALITY
from sdxl_lightning_mcp.request import read_request, resolve
from sdxl_lightning_mcp.settings import Speed

PROMPT = "a cyberpunk city street at night, neon signs glowing"
STEPS = 4
PARAMETERS, _ = resolve(read_request({"prompt": PROMPT, "seed": 1, "steps": STEPS}, MINI), MINI)


def main() -> None:
    """Measures, prints a table, and writes it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--rounds", type=int, default=15, help="of each comparison")
    parser.add_argument("--decoder-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--give-back", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.give_back:
        keep_memory(torch.device("cpu"))
    if options.decoder_only:
        print(statistics.median(decoding_times(options.rounds)))
        return
    figures: dict[str, Any] = {"device": str(tune("cpu"))}
    for measure in (rewired, kept_memory, jpeg, rounded, compiled):
        print(f"{measure.__name__} ...", file=sys.stderr, flush=True)
        figures |= measure(options.rounds)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


def opened(tuning: Tuning, folder: Path | None = None) -> Sdxl:
    """mini, with compiled calls in that folder."""
    networks = build_networks(MINI.checkpoint)
    fill_networks(networks, MINI.checkpoint, tuning)
    artefacts = Artefacts(folder) if folder else None
    return Sdxl(Holding(MINI.checkpoint, networks, tuning, artefacts), [MINI.checkpoint])


def rewired(rounds: int) -> dict[str, Any]:
    """The UNet with joined projections against the UNet as its file is."""
    tuning = tune("cpu")
    sdxl, plain = opened(tuning), build_networks(MINI.checkpoint)
    fill_networks(plain, MINI.checkpoint, tuning)
    sample = sdxl.prepare("a", PARAMETERS)
    x = sample.latents.to(tuning.dtype, memory_format=tuning.memory_format)
    told, timestep = sample.positive, sample.schedule.timesteps[:1]
    outputs: dict[str, Tensor] = {}

    def as_it_was() -> None:
        conditions = {"text_embeds": told.pooled, "time_ids": told.sizes}
        for _ in range(STEPS):
            outputs["as it was"] = plain.unet(
                x,
                timestep,
                encoder_hidden_states=told.tokens,
                added_cond_kwargs=conditions,
                return_dict=False,
            )[0]

    def as_it_is() -> None:
        context = sdxl.held.networks.unet.context_projection(told.tokens)
        for _ in range(STEPS):
            outputs["as it is"] = sdxl.held.execution.unet(
                x, timestep, context, told.pooled, told.sizes
            )

    with torch.inference_mode():
        before, after = in_turn(rounds, as_it_was, as_it_is)
    return {
        "rewired / as it was, four UNet calls": ratio(after, before),
        "rewired, bit for bit the same": torch.equal(*outputs.values()),
    }


def kept_memory(rounds: int) -> dict[str, Any]:
    """Decoding where large blocks are kept against decoding where they are given back."""
    times: dict[bool, list[float]] = {False: [], True: []}
    command = [sys.executable, __file__, "--decoder-only", "--rounds", str(rounds)]
    for kept in (False, True) * 3:
        flags = [] if kept else ["--give-back"]
        told = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
        times[kept].append(float(told.stdout))
    return {
        "decoder with memory given back, s": round(statistics.median(times[False]), 3),
        "memory kept / given back, decoder": ratio(times[True], times[False]),
    }


def decoding_times(rounds: int) -> list[float]:
    """Seconds of the decoder's calls."""
    sdxl = opened(tune("cpu"))
    latents = denoised(sdxl)
    with torch.inference_mode():
        return in_turn(rounds, lambda: sdxl.held.execution.decode(latents))[0]


def jpeg(rounds: int) -> dict[str, Any]:
    """What encoding takes, which is done beside the next steps."""
    sdxl = opened(tune("cpu"))
    picture = drawn(sdxl)

    def encode() -> None:
        picture.save(io.BytesIO(), "JPEG", quality=QUALITY, subsampling=0)

    (times,) = in_turn(rounds, encode)
    return {"JPEG by Pillow, ms": round(statistics.median(times) * 1e3, 1)}


def rounded(_: int) -> dict[str, Any]:
    """How near pictures with 8-bit linear layers are; speed needs a GPU that multiplies them."""
    sdxl = opened(tune("cpu"))
    before = drawn(sdxl)
    layers = round_linears(sdxl.held.networks.unet, least=16)
    return {"8-bit linear layers": layers, "8-bit, PSNR in dB": psnr(drawn(sdxl), before)}


def compiled(rounds: int) -> dict[str, Any]:
    """Compiled calls against plain ones, and what compiling takes."""
    fast = tune("cpu", Speed.FAST)
    plain = opened(replace(fast, compiled=()))
    before = drawn(plain)
    latents = denoised(plain)
    sample = plain.prepare("a", PARAMETERS)
    with tempfile.TemporaryDirectory() as folder:
        sdxl = opened(fast, Path(folder))
        started = time.perf_counter()
        # The UNet and then the decoder; this process rests meanwhile.
        for _ in fast.compiled:
            while not (compilers := psutil.Process().children()):
                drawn(sdxl)
            compilers[0].wait()
        took = time.perf_counter() - started
        after = drawn(sdxl)
        assert sdxl.held.way[1] == len(fast.compiled)

        def steps(of: Sdxl) -> Callable[[], None]:
            def run() -> None:
                begun = replace(sample, step=0)
                while not begun.denoised:
                    of.denoise([begun])

            return run

        with torch.inference_mode():
            unet = in_turn(rounds, steps(plain), steps(sdxl))
            decoder = in_turn(
                rounds,
                lambda: plain.held.execution.decode(latents),
                lambda: sdxl.held.execution.decode(latents),
            )
    return {
        "compiling both in the background, s": round(took),
        "compiled / plain, four steps": ratio(unet[1], unet[0]),
        "compiled / plain, decoder": ratio(decoder[1], decoder[0]),
        "compiled, PSNR in dB": psnr(after, before),
    }


def denoised(sdxl: Sdxl) -> Tensor:
    """Latents as they go to the decoder."""
    sample = sdxl.prepare("a", PARAMETERS)
    while not sample.denoised:
        sdxl.denoise([sample])
    vae: Any = sdxl.held.networks.vae
    return (sample.latents / vae.config.scaling_factor).to(vae.dtype)


def drawn(sdxl: Sdxl) -> Image.Image:
    """A picture."""
    sample = sdxl.prepare("a", PARAMETERS)
    while not sample.denoised:
        sdxl.denoise([sample])
    return sdxl.decode(sample)


def in_turn(rounds: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each function, called A B A B; the first two rounds do not count."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(rounds + 2):
        for function, found in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            if turn >= 2:
                found.append(time.perf_counter() - started)
    return times


def ratio(one: list[float], other: list[float]) -> float:
    """Of medians."""
    return round(statistics.median(one) / statistics.median(other), 3)


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal to noise in dB."""
    a, b = (np.asarray(picture, dtype=np.float64) for picture in (one, other))
    return round(float(10 * np.log10(255**2 / max(1e-9, ((a - b) ** 2).mean()))), 1)


if __name__ == "__main__":
    main()
