"""Measures what the README claims of a prompt's way to a picture, on this machine.

    make bench      (or: python benchmarks/first_light.py [--rounds N] [--json FILE])

Speed is told as a ratio to diffusers' own pipeline on the same weights, called in turn with ours in
the same run. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from mcp import Client, StdioServerParameters

from sdxl_lightning_mcp import Parameters, read_parameters
from sdxl_lightning_mcp.catalogue import MINI, MINI_FOLDER
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU, tune
from sdxl_lightning_mcp.run import new_run_id
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store

PROMPT = "a cyberpunk city street at night, neon signs glowing"
BAD_INPUTS: list[dict[str, Any]] = [
    {"prompt": ""},
    {"prompt": "x" * 2001},
    {"prompt": "x", "width": 1001},
    {"prompt": "x", "width": 100_000, "height": 8},
    {"prompt": "x", "width": 2048, "height": 2048},
    {"prompt": "x", "steps": 0},
    {"prompt": "x", "steps": 13},
    {"prompt": "x", "guidance": -1},
    {"prompt": "x", "seed": -1},
    {"prompt": "x", "seed": 2**32},
    {"prompt": "x", "colour": "red"},
    {"prompt": 7},
    {"prompt": "x", "guidance": "nan"},
]


def main() -> None:
    """Runs every measurement and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="pictures per contestant")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    figures: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "device": str(tune()),
    }
    with tempfile.TemporaryDirectory() as folder:
        for measure in (
            start_up,
            event_loop_while_loading,
            through_mcp,
            bad_input,
            end_of_stdin,
        ):
            figures |= anyio.run(measure, Path(folder), options.rounds)
    figures |= equality()
    for name, value in figures.items():
        print(f"{name:45} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def server(folder: Path) -> StdioServerParameters:
    """The server as a client starts it."""
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "sdxl_lightning_mcp", "--model", "mini", "--output-dir", str(folder)],
        env={"SDXL_LIGHTNING_LOG_LEVEL": "warning"},
    )


async def timed(action: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """How many seconds it took, and what came of it."""
    begun = time.perf_counter()
    result = await action()
    return time.perf_counter() - begun, result


async def start_up(folder: Path, rounds: int) -> dict[str, Any]:
    """From spawning the process to the answer to `initialize`."""
    seconds: list[float] = []
    for _ in range(rounds):
        begun = time.perf_counter()
        async with Client(server(folder), mode="legacy"):
            seconds.append(time.perf_counter() - begun)
    return {"spawn to initialize, p50 s": round(statistics.median(seconds), 3)}


async def event_loop_while_loading(folder: Path, _: int) -> dict[str, Any]:
    """The longest time for which the server's event loop did nothing else while mini loads."""
    gaps: list[float] = []
    async with LocalRunner.open(MINI, Store(folder), log_level="warning") as runner:
        begun = time.perf_counter()
        while runner.status().state != "ready":
            before = time.perf_counter()
            await anyio.sleep(0.001)
            gaps.append(time.perf_counter() - before - 0.001)
        loading = time.perf_counter() - begun
    return {
        "loading, s": round(loading, 2),
        "longest wait of the event loop meanwhile, ms": round(max(gaps) * 1000, 1),
    }


async def through_mcp(folder: Path, rounds: int) -> dict[str, Any]:
    """1024x1024, 4 steps: ours through MCP and the plain pipeline, in turn."""
    contestants = {
        "float32": plain_pipeline(torch.float32),
        "same data type": plain_pipeline(tune().dtype),
    }
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in contestants}
    async with Client(server(folder), mode="legacy") as client:

        async def draw(seed: int = 0) -> Any:
            return await client.call_tool("generate_image", {"prompt": PROMPT, "seed": seed})

        for index in range(rounds + 2):
            seconds, result = await timed(draw)
            assert not result.is_error, result.content[0].text
            warm = index >= 2
            ours += [seconds] * warm
            for name, pipeline in contestants.items():
                begun = time.perf_counter()
                pipeline()
                theirs[name] += [time.perf_counter() - begun] * warm
        results: dict[int, Any] = {}

        async def draw_as(seed: int) -> None:
            results[seed] = await draw(seed)

        begun = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for seed in range(8):
                tasks.start_soon(draw_as, seed)
        eight = time.perf_counter() - begun
    paths = {seed: Path(result.content[1].text.splitlines()[0]) for seed, result in results.items()}
    right = sum(read_parameters(path).seed == seed for seed, path in paths.items())
    assert len(set(paths.values())) == 8
    p50 = statistics.median(ours)
    figures: dict[str, Any] = {
        "through MCP, warm, 1024x1024, 4 steps, p50 s": round(p50, 3),
        "the same, p95 s": round(statistics.quantiles(ours, n=20)[-1], 3),
    }
    for name, seconds in theirs.items():
        plain = statistics.median(seconds)
        figures[f"plain pipeline, {name}, p50 s"] = round(plain, 3)
        figures[f"ours / plain pipeline, {name}"] = round(p50 / plain, 2)
    largest = max(len(result.model_dump_json()) for result in results.values())
    figures["eight calls at once: right files"] = f"{right} of 8"
    figures["eight calls at once, s per picture"] = round(eight / 8, 3)
    figures["largest result, characters"] = largest
    return figures


def plain_pipeline(dtype: torch.dtype) -> Callable[[], Any]:
    """The pipeline of diffusers on mini's weights, as its documentation calls it."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        MINI_FOLDER, dtype=dtype, low_cpu_mem_usage=False
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(tune().device)

    def draw() -> Any:
        generator = torch.Generator("cpu").manual_seed(0)
        return pipeline(PROMPT, num_inference_steps=4, guidance_scale=0, generator=generator)

    return draw


async def bad_input(folder: Path, _: int) -> dict[str, Any]:
    """How long the slowest refusal takes."""
    async with Client(server(folder), mode="legacy") as client:
        # The first call also brings parts of the SDK into the process; it counts like the others.
        slowest = 0.0
        for arguments in BAD_INPUTS:

            async def call(arguments: dict[str, Any] = arguments) -> Any:
                return await client.call_tool("generate_image", arguments)

            seconds, result = await timed(call)
            assert result.is_error
            slowest = max(slowest, seconds)
    return {f"slowest of {len(BAD_INPUTS)} refusals, ms": round(slowest * 1000, 1)}


async def end_of_stdin(folder: Path, _: int) -> dict[str, Any]:
    """From the end of stdin, in the middle of loading, to the end of server and worker."""
    command = [
        sys.executable,
        "-m",
        "sdxl_lightning_mcp",
        "--model",
        "mini",
        "--output-dir",
        str(folder),
    ]
    environment = {**os.environ, "SDXL_LIGHTNING_LOG_LEVEL": "warning"}
    async with await anyio.open_process(
        command, stdin=subprocess.PIPE, stderr=None, env=environment
    ) as process:
        family = psutil.Process(process.pid)
        while not (workers := family.children()):
            await anyio.sleep(0.01)
        await anyio.sleep(1)
        assert process.stdin is not None
        begun = time.perf_counter()
        await process.stdin.aclose()
        await process.wait()
        while any(w.is_running() and w.status() != psutil.STATUS_ZOMBIE for w in workers):
            await anyio.sleep(0.001)
    return {"end of stdin to end of both processes, s": round(time.perf_counter() - begun, 3)}


def equality() -> dict[str, Any]:
    """Latents against the pipeline's, float32 on the CPU, bit for bit."""
    ours = Sdxl.open(MINI.checkpoint, FLOAT32_CPU)
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        MINI_FOLDER, dtype=torch.float32, low_cpu_mem_usage=False
    )
    pipeline.set_progress_bar_config(disable=True)
    equal = cases = 0
    for steps in (1, 2, 4, 5, 8, 12):
        for guidance in (0.0, 3.0):
            wish = Parameters(
                model="mini",
                checkpoint=MINI.checkpoint.name,
                prompt=PROMPT,
                negative_prompt="",
                seed=steps,
                width=1024,
                height=1024,
                guidance=guidance,
                steps=steps,
            )
            sample = ours.prepare(new_run_id(), wish)
            while not sample.denoised:
                ours.denoise([sample])
            expected = pipeline(
                PROMPT,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator("cpu").manual_seed(steps),
                output_type="latent",
            ).images
            equal += torch.equal(sample.latents, expected)
            cases += 1
    return {"latents equal to the pipeline's, bit for bit": f"{equal} of {cases}"}


if __name__ == "__main__":
    main()
