"""One client, several clients, and clients who come when they like, in any of the ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sdxl_lightning_mcp.bench.asking import Draw, closed_loop, open_loop
from sdxl_lightning_mcp.bench.figures import Section, poisson_arrivals
from sdxl_lightning_mcp.bench.plan import SHARES, Plan
from sdxl_lightning_mcp.bench.report import Report
from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.settings import Settings


@dataclass(frozen=True)
class Bench:
    """What is measured, and where the figures go; `tell` is told what is being measured now."""

    settings: Settings
    model: Model
    plan: Plan
    report: Report
    tell: Callable[[str], None]


async def warm_up(bench: Bench, draw: Draw) -> None:
    """The first pictures pay for much that later ones do not."""
    for number in bench.plan.take(bench.plan.warm_ups):
        await draw(number)


async def measure_one(bench: Bench, way: str, draw: Draw) -> None:
    """One client, whose latencies are told in full."""
    bench.tell(f"{way}: 1 client")
    load = await closed_loop(way, draw, bench.plan.take(bench.plan.pictures), 1)
    bench.report.loads.append(load)
    for percent in (50, 95, 99):
        bench.report.add(Section.ONE, f"{way}, p{percent}", load.percentile(percent), "s")


async def measure_clients(bench: Bench, ways: Mapping[str, Draw], clients: tuple[int, ...]) -> None:
    """So many clients at once, of whom each asks for the next picture when it has one.

    The ways come in turn at each number of clients.
    """
    for count in clients:
        for way, draw in ways.items():
            bench.tell(f"{way}: {count} client{'s' * (count > 1)}")
            numbers = bench.plan.take(bench.plan.loaded(count))
            bench.report.loads.append(await closed_loop(way, draw, numbers, count))


async def measure_arrivals(bench: Bench, way: str, draw: Draw) -> None:
    """Poisson arrivals at shares of the most that any number of clients has reached."""
    plan, most = bench.plan, capacity(bench, way)
    for share in SHARES:
        bench.tell(f"{way}: arrivals at {share:.0%} of {most:.3g} pictures/s")
        arrivals = poisson_arrivals(plan.arrivals, share * most)
        load = await open_loop(way, draw, plan.take(plan.arrivals), arrivals)
        bench.report.loads.append(replace(load, share=share, rate=share * most))


def capacity(bench: Bench, way: str) -> float:
    """The most pictures a second that this way has shown with any number of clients."""
    loads = [load for load in bench.report.loads if load.way == way and load.share is None]
    return max(load.pictures_a_second for load in loads)
