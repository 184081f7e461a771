"""Who is computed next, without tensors and with a clock of our own."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sdxl_lightning_mcp.engine.policy import BatchSizes, next_call


@dataclass
class Waiting:
    """A run of so many steps."""

    arrival: int
    size: str
    steps: int = 4
    round: int = 0

    @property
    def turn(self) -> tuple[int, int]:
        return self.round, self.arrival


def played(
    arrivals: dict[int, list[Waiting]], sizes: BatchSizes, cost: Callable[[int], float]
) -> list[tuple[float, list[Waiting]]]:
    """Plays calls until nothing is left; runs come before the call of that number.

    Returns each call's end on the clock, and who was in it.
    """
    runs: list[Waiting] = []
    calls: list[tuple[float, list[Waiting]]] = []
    clock = 0.0
    while runs or any(number >= len(calls) for number in arrivals):
        runs += arrivals.get(len(calls), [])
        chosen = next_call(runs, sizes)
        if chosen:
            seconds = cost(len(chosen))
            sizes.learn(chosen[0].size, len(chosen), seconds)
            clock += seconds
        for run in chosen:
            run.steps -= 1
        runs = [run for run in runs if run.steps]
        calls.append((clock, chosen))
    return calls


def numbers(calls: list[tuple[float, list[Waiting]]]) -> list[list[int]]:
    return [[run.arrival for run in chosen] for _, chosen in calls]


def test_nothing_waits_then_nothing_is_called() -> None:
    assert next_call([], BatchSizes(8)) == []


def test_the_oldest_leads_and_those_of_its_size_ride_along() -> None:
    runs = [Waiting(1, "wide"), Waiting(0, "square"), Waiting(2, "square"), Waiting(3, "square")]
    assert [run.arrival for run in next_call(runs, BatchSizes(2))] == [0, 2]


def test_a_newcomer_joins_between_two_steps_and_none_waits_for_a_batch_to_fill() -> None:
    calls = played({0: [Waiting(0, "a")], 2: [Waiting(1, "a")]}, BatchSizes(2), lambda _: 1.0)
    assert numbers(calls) == [[0], [0], [0, 1], [0, 1], [1], [1]]


def test_an_odd_size_is_not_starved_by_a_stream_of_others() -> None:
    arrivals = {call: [Waiting(call + 2, "square")] for call in range(1, 40)}
    arrivals[0] = [Waiting(0, "square"), Waiting(1, "odd"), Waiting(2, "square")]
    calls = numbers(played(arrivals, BatchSizes(2), lambda _: 1.0))
    # Only what came before it is ahead of it: four steps.
    assert [call for call, chosen in enumerate(calls) if 1 in chosen] == [4, 5, 6, 7]


def test_a_lower_round_comes_before_who_was_here_first() -> None:
    series = [Waiting(number, "a", 2, round=number) for number in range(3)]
    other = Waiting(3, "a", 2, round=0)
    calls = numbers(played({0: series, 1: [other]}, BatchSizes(1), lambda _: 1.0))
    assert calls == [[0], [0], [3], [3], [1], [1], [2], [2]]


def test_each_size_has_its_turn_in_the_order_of_arrival() -> None:
    runs = [Waiting(number, size, 2) for number, size in enumerate("abcab")]
    assert numbers(played({0: runs}, BatchSizes(4), lambda _: 1.0)) == [
        [0, 3],
        [0, 3],
        [1, 4],
        [1, 4],
        [2],
        [2],
    ]


@pytest.mark.parametrize(
    ("cost", "learned"),
    [
        (lambda count: 1.0, 8),  # a call costs the same whatever is in it
        (lambda count: 1.0 * count, 1),  # nothing is gained
        (lambda count: 1.0 + 0.99 * (count - 1), 1),  # nearly nothing
        (lambda count: max(1.0, count / 4), 4),  # full with four
    ],
)
def test_a_batch_grows_as_long_as_each_doubling_pays(
    cost: Callable[[int], float], learned: int
) -> None:
    sizes = BatchSizes(8)
    runs = [Waiting(number, "a") for number in range(100)]
    calls = played({0: runs}, sizes, cost)
    assert sizes.cap("a") == learned
    assert {len(chosen) for _, chosen in calls[50:-8]} <= {learned}


def test_the_first_call_of_a_kind_only_warms_up() -> None:
    sizes = BatchSizes(2)
    for seconds in (9.0, 1.0, 1.0, 1.0):
        sizes.learn("a", 2, seconds)
    for seconds in (0.8, 0.8, 0.8, 0.8):
        sizes.learn("a", 1, seconds)
    assert sizes.cap("a") == 2


def test_never_more_than_allowed_and_with_one_each_is_alone() -> None:
    assert BatchSizes(1).cap("a") == 1
    runs = [Waiting(number, "a", 1) for number in range(20)]
    calls = played({0: runs}, BatchSizes(3), lambda _: 1.0)
    assert max(len(chosen) for _, chosen in calls) == 3


def test_what_memory_forbids_is_not_tried_again_before_the_device_has_changed() -> None:
    sizes = BatchSizes(8)
    sizes.limit("a", 1)
    assert (sizes.cap("a"), sizes.cap("b")) == (1, 2)
    sizes.forget()
    assert sizes.cap("a") == 2
