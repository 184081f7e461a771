"""Asking for pictures in one way or another, and taking the time."""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from sdxl_lightning_mcp.bench.figures import Load

Draw = Callable[[int], Awaitable[object]]
"""Draws the picture of a number, whose prompt and seed no other number has."""


async def seconds_of(draw: Draw, number: int) -> float:
    """How long one picture takes."""
    begun = time.perf_counter()
    await draw(number)
    return time.perf_counter() - begun


async def closed_loop(way: str, draw: Draw, numbers: Sequence[int], clients: int) -> Load:
    """Clients of whom each asks for the next picture when it has got one, until all are drawn."""
    latencies: list[float] = []
    left = iter(numbers)

    async def client() -> None:
        # The clients share one iterator: each takes the next number there is.
        for number in left:
            latencies.append(await seconds_of(draw, number))  # noqa: PERF401

    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(client)
    return Load(way, time.perf_counter() - begun, tuple(latencies), clients=clients)


async def open_loop(
    way: str, draw: Draw, numbers: Sequence[int], arrivals: Sequence[float]
) -> Load:
    """Callers who come at their own times, whether or not those before have been served.

    Their latency counts from the time they come.
    """
    latencies: list[float] = []
    begun = time.perf_counter()

    async def caller(number: int, arrival: float) -> None:
        await anyio.sleep(max(0.0, begun + arrival - time.perf_counter()))
        await draw(number)
        latencies.append(time.perf_counter() - begun - arrival)

    async with anyio.create_task_group() as tasks:
        for number, arrival in zip(numbers, arrivals, strict=True):
            tasks.start_soon(caller, number, arrival)
    return Load(way, time.perf_counter() - begun, tuple(latencies))


async def in_turn(contestants: Mapping[str, Draw], numbers: Sequence[int]) -> dict[str, float]:
    """Every number drawn by each contestant, A B A B: what disturbs one disturbs the other.

    Returns:
        The median of each contestant's seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in numbers:
        for name, draw in contestants.items():
            taken[name].append(await seconds_of(draw, number))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
