"""Measures what the README claims beside speed, which `sdxl-lightning-mcp bench` measures.

make bench      (or: python benchmarks/first_light.py [--json FILE])
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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
from sdxl_lightning_mcp.engine.tuning import FLOAT32_CPU
from sdxl_lightning_mcp.run import new_run_id

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
    {"prompt": "x" * 10_000_000},
    {"prompt": "x", "steps": 1e9},
    {"prompt": "x", "seed": True},
    {"prompt": ["x"]},
]
BAD_IDS: list[dict[str, Any]] = [
    {},
    {"id": 7},
    {"id": "run_123"},
    {"id": "../../etc/passwd"},
    {"id": "01890a5d-ac96-774b-bcce-b302099a8057"},
    {"id": "01890a5d-ac96-774b-bcce-b302099a8057", "wait": 1},
]
LARGE = BAD_INPUTS.index({"prompt": "x" * 10_000_000})
STARTS = 15
HELLO = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("hello")

@server.tool()
def hello() -> str:
    return "hello"

server.run()
"""


def main() -> None:
    """Runs every measurement and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for measure in (start_up, eight_at_once, bad_input, end_of_stdin):
            figures |= anyio.run(measure, Path(folder))
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
        env={"SDXL_LIGHTNING_LOG_LEVEL": "warning", "SDXL_LIGHTNING_PRIVATE": "1"},
    )


async def start_up(folder: Path) -> dict[str, Any]:
    """From spawning to the answer to initialize, in turn with the smallest server there is."""
    hello = StdioServerParameters(command=sys.executable, args=["-P", "-c", HELLO])
    contestants = {"": server(folder), ", of a hello-world server": hello}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(STARTS):
        for name, parameters in contestants.items():
            begun = time.perf_counter()
            async with Client(parameters, mode="legacy"):
                taken[name].append(time.perf_counter() - begun)
    return {
        f"spawn to initialize{name}, p50 of {STARTS}, s": round(statistics.median(seconds), 3)
        for name, seconds in taken.items()
    }


async def eight_at_once(folder: Path) -> dict[str, Any]:
    """Eight calls at once: whether each gets its own picture, and how large results are."""
    results: dict[int, Any] = {}
    async with Client(server(folder), mode="legacy") as client:

        async def draw(seed: int) -> None:
            results[seed] = await client.call_tool(
                "generate_image", {"prompt": PROMPT, "seed": seed}
            )

        async with anyio.create_task_group() as tasks:
            for seed in range(8):
                tasks.start_soon(draw, seed)
    paths = {seed: Path(result.content[1].text.splitlines()[0]) for seed, result in results.items()}
    right = sum(read_parameters(path).seed == seed for seed, path in paths.items())
    assert len(set(paths.values())) == 8
    return {
        "eight calls at once: right files": f"{right} of 8",
        "largest result, characters": max(len(one.model_dump_json()) for one in results.values()),
    }


async def bad_input(folder: Path) -> dict[str, Any]:
    """How long the slowest refusal takes."""
    async with Client(server(folder), mode="legacy") as client:
        # The first call also brings parts of the SDK into the process; it counts like the others.
        refused = [("generate_image", arguments) for arguments in BAD_INPUTS]
        refused += [("get_image", arguments) for arguments in BAD_IDS]
        taken: dict[str, float] = {}
        for tool, arguments in refused:
            begun = time.perf_counter()
            result = await client.call_tool(tool, arguments)
            taken[str(arguments)[:40]] = time.perf_counter() - begun
            assert result.is_error
    # Ten megabytes take their time to be sent, whatever the answer is.
    large = taken.pop(str(BAD_INPUTS[LARGE])[:40])
    return {
        f"slowest of {len(taken)} refusals, ms": round(max(taken.values()) * 1000, 1),
        "refusal of a prompt of 10 MB, with sending it, ms": round(large * 1000, 1),
    }


async def end_of_stdin(folder: Path) -> dict[str, Any]:
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
    environment = {
        **os.environ,
        "SDXL_LIGHTNING_LOG_LEVEL": "warning",
        "SDXL_LIGHTNING_PRIVATE": "1",
    }
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
