"""Comparisons: every contestant in the same run, called in turn."""

import statistics
from collections.abc import Mapping

from sdxl_lightning_mcp.bench.asking import Draw, closed_loop, in_turn
from sdxl_lightning_mcp.bench.baseline import by_locked_pipeline, by_pipeline, open_pipeline
from sdxl_lightning_mcp.bench.clients import Bench, capacity, warm_up
from sdxl_lightning_mcp.bench.device import ceiling, data_type, peak_memory, work
from sdxl_lightning_mcp.bench.figures import Load, Section, percentile
from sdxl_lightning_mcp.bench.plan import MANY
from sdxl_lightning_mcp.bench.ways import ENGINE, LOCKED, MCP, PIPELINE, by_engine, open_engine

TERA, MIB = 1e12, 2**20


async def compare_with_engine(bench: Bench, draw: Draw) -> None:
    """`draw`, which goes through MCP, against the bare call of the engine."""
    bench.tell(f"{MCP} and {ENGINE} in turn")
    loaded = open_engine(bench.settings)
    through, bare = await _compare(bench, {MCP: draw, ENGINE: by_engine(loaded, bench.plan)})
    added = (through - bare) * 1000
    bench.report.add(Section.IN_TURN, f"{MCP}, added to the {ENGINE}, p50", added, "ms")


async def compare_with_pipeline(bench: Bench) -> None:
    """The engine's call against the pipeline's, in the same data type and in float32."""
    draw = by_engine(open_engine(bench.settings), bench.plan)
    await warm_up(bench, draw)
    for dtype in dict.fromkeys((data_type(bench.settings.device), "float32")):
        name = f"{PIPELINE}, {dtype}"
        bench.tell(f"{ENGINE} and {name} in turn")
        pipeline = open_pipeline(bench.model, bench.settings.device, dtype)
        await _compare(bench, {ENGINE: draw, name: by_pipeline(pipeline, bench.model, bench.plan)})


async def _compare(bench: Bench, contestants: dict[str, Draw]) -> tuple[float, float]:
    """The medians of two, in seconds; reported with the first divided by the second."""
    ours, other = contestants
    for draw in contestants.values():
        await warm_up(bench, draw)
    medians = await in_turn(contestants, bench.plan.take(bench.plan.rounds))
    add = bench.report.add
    add(Section.IN_TURN, f"{ours}, p50, in turn with {other}", medians[ours], "s")
    add(Section.IN_TURN, f"{other}, p50, in turn with {ours}", medians[other], "s")
    add(Section.IN_TURN, f"{ours} / {other}", medians[ours] / medians[other])
    return medians[ours], medians[other]


async def open_locked(bench: Bench) -> Draw:
    """A pipeline as servers wrap it, in the data type that ours has."""
    device = bench.settings.device
    pipeline = open_pipeline(bench.model, device, data_type(device))
    draw = by_locked_pipeline(pipeline, bench.model, bench.plan)
    await warm_up(bench, draw)
    return draw


async def compare_many(bench: Bench, ways: Mapping[str, Draw]) -> None:
    """Eight callers at once, against the same one by one and against a pipeline with a lock."""
    plan, draw, locked = bench.plan, ways[MCP], ways.get(LOCKED)
    bench.tell("eight callers one by one, and at once")
    single: list[Load] = []
    ours: list[Load] = []
    theirs: list[Load] = []
    for _ in range(plan.bursts):
        single.append(await closed_loop(MCP, draw, plan.take(MANY), 1))
        ours.append(await closed_loop(MCP, draw, plan.take(MANY), MANY))
        if locked:
            theirs.append(await closed_loop(LOCKED, locked, plan.take(MANY), MANY))
    _report_many(bench, single, ours, theirs)


def _report_many(bench: Bench, single: list[Load], ours: list[Load], theirs: list[Load]) -> None:
    add = bench.report.add
    alone, total = (statistics.median(one.seconds for one in loads) for loads in (single, ours))
    first = statistics.median(load.latencies[0] / load.seconds for load in ours)
    p95 = percentile([seconds for load in ours for seconds in load.latencies], 95)
    add(Section.MANY, f"{MCP}, one by one, total p50", alone, "s")
    add(Section.MANY, f"{MCP}, at once, total p50", total, "s")
    add(Section.MANY, "at once / one by one", total / alone)
    add(Section.MANY, "first answer / total", first)
    add(Section.MANY, f"{MCP}, p95, eight at once", p95, "s")
    if theirs:
        other = percentile([seconds for load in theirs for seconds in load.latencies], 95)
        add(Section.MANY, f"{LOCKED}, p95, eight at once", other, "s")
        add(Section.MANY, f"{MCP} / {LOCKED}, p95", p95 / other)


async def compare_with_ceiling(bench: Bench) -> None:
    """The engine's work a second against that of a large matrix product, on the same device."""
    bench.tell(f"{ENGINE} and a large matrix product")
    loaded = open_engine(bench.settings)
    draw = by_engine(loaded, bench.plan)
    await warm_up(bench, draw)
    with peak_memory(loaded) as peak:
        medians = await in_turn({ENGINE: draw}, bench.plan.take(bench.plan.rounds))
    most, flops = ceiling(loaded), work(loaded, bench.plan.parameters(0, bench.model))
    add = bench.report.add
    add(Section.CEILING, "one picture's matrix products and convolutions", flops / TERA, "TFLOP")
    add(Section.CEILING, "a large matrix product reaches", most / TERA, "TFLOP/s")
    add(Section.CEILING, f"{ENGINE}, share of that", flops / medians[ENGINE] / most)
    add(Section.CEILING, f"{MCP} at capacity, share of that", flops * capacity(bench, MCP) / most)
    for name, amount in peak.items():
        bench.report.add(Section.MEMORY, name, amount / MIB, "MiB")
