"""Who is computed next, and how many together: policy without tensors."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

# A larger batch must be faster for each picture by so much, since it delays the first.
WORTHWHILE = 0.97
# The first call of a kind warms caches up; the fastest of the next ones counts.
WARM_UPS, TRIES = 1, 3


class Standing(Protocol):
    """A run that waits for its next step. Those with an equal `size` may share a call."""

    @property
    def turn(self) -> tuple[int, int]:
        """The round it belongs to, and its number in the order of arrival."""
        ...

    @property
    def size(self) -> Hashable:
        """What must agree for a shared call."""
        ...


StandingT = TypeVar("StandingT", bound=Standing)


def next_call(runs: Sequence[StandingT], sizes: "BatchSizes") -> list[StandingT]:
    """The runs of the next call: the oldest leads, those that can share it ride along.

    Nobody waits for a batch to fill, and who has another size waits at most until all who came
    before are done. A newcomer of the leader's size joins between two of its steps. The oldest is
    the one that came first, of those in the lowest round.
    """
    if not runs:
        return []
    leader = min(runs, key=lambda run: run.turn)
    riders = sorted((run for run in runs if run.size == leader.size), key=lambda run: run.turn)
    return riders[: sizes.cap(leader.size)]


class BatchSizes:
    """Learns from the calls themselves how many samples of a size are worth a shared call.

    It doubles up to `most`, as long as a doubling makes each sample faster.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limits: dict[Hashable, int] = {}
        self._seconds: defaultdict[tuple[Hashable, int], list[float]] = defaultdict(list)

    def learn(self, size: Hashable, count: int, seconds: float) -> None:
        """A call of `count` samples of that size took so many seconds."""
        known = self._seconds[size, count]
        if len(known) < WARM_UPS + TRIES:
            known.append(seconds)

    def limit(self, size: Hashable, most: int) -> None:
        """There is no memory for more than `most` samples of that size in a call."""
        self._limits[size] = most

    def forget(self) -> None:
        """The device computes otherwise from now on: what was learned holds no more."""
        self._seconds.clear()
        self._limits.clear()

    def cap(self, size: Hashable) -> int:
        """The most samples of that size for the next call."""
        most = min(self._most, self._limits.get(size, self._most))
        cap = 1
        while cap < most:
            larger = min(2 * cap, most)
            then = self._per_sample(size, larger)
            if then is None:
                return larger
            now = self._per_sample(size, cap)
            if now is None or then > WORTHWHILE * now:
                return cap
            cap = larger
        return cap

    def _per_sample(self, size: Hashable, count: int) -> float | None:
        """Seconds for each sample in a call of so many; None until they were measured."""
        known = self._seconds.get((size, count), [])
        return min(known[WARM_UPS:]) / count if len(known) == WARM_UPS + TRIES else None
