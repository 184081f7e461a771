"""The measurements: not two at once, and no more than two copies of the model at a time."""

import statistics
import time

import psutil
from mcp import Client

from sdxl_lightning_mcp.bench.asking import closed_loop, seconds_of
from sdxl_lightning_mcp.bench.clients import (
    Bench,
    capacity,
    measure_arrivals,
    measure_clients,
    measure_one,
    warm_up,
)
from sdxl_lightning_mcp.bench.compare import (
    MIB,
    compare_many,
    compare_with_ceiling,
    compare_with_engine,
    compare_with_pipeline,
    open_locked,
)
from sdxl_lightning_mcp.bench.figures import Section, slope
from sdxl_lightning_mcp.bench.memory import Memory
from sdxl_lightning_mcp.bench.plan import CLIENTS, MANY
from sdxl_lightning_mcp.bench.responsiveness import freed_after_cancel, ticking
from sdxl_lightning_mcp.bench.ways import (
    API,
    LOCKED,
    MCP,
    OVER_HTTP,
    by_runner,
    by_tool,
    http_client,
    stdio_client,
)
from sdxl_lightning_mcp.faces import mcp as face
from sdxl_lightning_mcp.server import open_runner

KIB, MS = 2**10, 1000.0


async def measure(bench: Bench) -> None:
    """Measures everything. Raises SdxlLightningError where a picture fails."""
    # First what a torch in this process would disturb: its many objects slow the event loop down.
    await measure_responsiveness(bench)
    await measure_api(bench)
    await measure_mcp(bench)
    if bench.plan.against_diffusers:
        await compare_with_pipeline(bench)
    await compare_with_ceiling(bench)


async def measure_server(bench: Bench) -> None:
    """A server that runs somewhere, as agents reach it over HTTP."""
    bench.report.machine["device"] = bench.settings.connect[0]
    async with http_client(bench.settings) as client:
        draw = by_tool(client, bench.plan)
        bench.tell(f"{OVER_HTTP}: the first picture")
        seconds = await seconds_of(draw, *bench.plan.take(1))
        bench.report.add(Section.FIRST, OVER_HTTP, seconds, "s")
        await warm_up(bench, draw)
        await measure_one(bench, OVER_HTTP, draw)
        await measure_clients(bench, {OVER_HTTP: draw}, CLIENTS[1:])
        await measure_arrivals(bench, OVER_HTTP, draw)
    _report_price(bench, OVER_HTTP)


async def measure_responsiveness(bench: Bench) -> None:
    """The server's event loop, with its face and a client on it, and what a cancel frees."""
    plan, model, add = bench.plan, bench.model, bench.report.add
    # One run at a time, so that it can be seen when the device begins with the next.
    settings = bench.settings.model_copy(update={"max_batch": 1})
    async with open_runner(settings, model) as runner:
        async with Client(face.build(runner, model, settings.preview_bytes)) as client:
            draw = by_tool(client, plan)
            bench.tell("the event loop while the model loads")
            async with ticking() as loading:
                await draw(*plan.take(1))
            bench.tell("the event loop while pictures are drawn")
            async with ticking() as drawing:
                await closed_loop(API, draw, plan.take(plan.loaded(MANY)), MANY)
        bench.tell("canceled runs")
        freed, step = await freed_after_cancel(runner, model, plan)
    wait = "longest wait of the server's event loop"
    add(Section.RESPONSIVE, f"{wait} until the first picture", max(loading) * MS, "ms")
    add(Section.RESPONSIVE, f"{wait} while eight clients draw", max(drawing) * MS, "ms")
    add(Section.RESPONSIVE, "one step", step * MS, "ms")
    free = "from cancel to free device, less one step"
    add(Section.RESPONSIVE, f"{free}, p50", (statistics.median(freed) - step) * MS, "ms")
    add(Section.RESPONSIVE, f"{free}, longest of {len(freed)}", (max(freed) - step) * MS, "ms")


async def measure_api(bench: Bench) -> None:
    """A runner in this process, as a program opens it."""
    plan, model = bench.plan, bench.model
    async with open_runner(bench.settings, model) as runner:
        draw = by_runner(runner, model, plan)
        bench.tell(f"{API}: loading")
        # A smaller one waits for the weights; the first of full size is then what is measured.
        least = int(model.side.low)
        small = plan.parameters(plan.take(1)[0], model, 1)
        run = await runner.submit(small.model_copy(update={"width": least, "height": least}))
        await run.finished()
        bench.report.machine["device"] = str(runner.status().device)
        seconds = await seconds_of(draw, *plan.take(1))
        bench.report.add(Section.FIRST, f"{API}, the model being open already", seconds, "s")
        await warm_up(bench, draw)
        await measure_one(bench, API, draw)
        await measure_clients(bench, {API: draw}, CLIENTS[1:])
        await measure_arrivals(bench, API, draw)


async def measure_mcp(bench: Bench) -> None:
    """A server process and its client, from spawning it; then the engine and a pipeline beside."""
    plan, add = bench.plan, bench.report.add
    bench.tell(f"{MCP}: starting")
    begun = time.perf_counter()
    async with stdio_client(bench.settings) as client:
        add(Section.FIRST, f"{MCP}, process start to initialize", time.perf_counter() - begun, "s")
        draw = by_tool(client, plan)
        await draw(*plan.take(1))
        add(Section.FIRST, f"{MCP}, process start to picture", time.perf_counter() - begun, "s")
        await warm_up(bench, draw)
        # The only child: the runners' workers have ended with them.
        memory = Memory(psutil.Process().children()[0])
        held: list[int] = []

        async def draw_and_look(number: int) -> None:
            await draw(number)
            held.append(memory.rss)

        async with memory.watched():
            await measure_one(bench, MCP, draw_and_look)
            await compare_with_engine(bench, draw)
            ways = {MCP: draw}
            if plan.against_diffusers:
                ways[LOCKED] = await open_locked(bench)
                await measure_clients(bench, {LOCKED: ways[LOCKED]}, CLIENTS[:1])
            await measure_clients(bench, ways, CLIENTS[1:])
            await measure_arrivals(bench, MCP, draw)
            await compare_many(bench, ways)
        _report_memory(bench, memory, held)
    _report_price(bench, MCP)


def _report_price(bench: Bench, way: str) -> None:
    if (price := bench.plan.price) is not None:
        pictures = capacity(bench, way) * 3600 / price
        name = f"pictures for a dollar, at {price:g} an hour"
        bench.report.add(Section.PRICE, name, pictures)


def _report_memory(bench: Bench, memory: Memory, held: list[int]) -> None:
    """The peaks, and how RSS (bytes) went on after each picture of one client."""
    add = bench.report.add
    for name, peak in memory.peak.items():
        add(Section.MEMORY, f"{name}, peak", peak / MIB, "MiB")
    growth, error = slope(held)
    name = f"growth of server and worker over {len(held)} pictures"
    add(Section.MEMORY, name, growth / KIB, "KiB a picture")
    add(Section.MEMORY, "the same, standard error", error / KIB, "KiB a picture")
