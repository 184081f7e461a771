"""Whose run is next at a worker that several share."""

from collections.abc import Hashable


class Turns:
    """Numbers the rounds of runs, so that a long series of one owner keeps no other waiting.

    Everyone's first run comes before anyone's second: start-time fair queueing (Goyal, Vin and
    Cheng, 1996) with runs of equal cost. Who was away gains nothing by it: newcomers come into the
    round that is being drawn.
    """

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[Hashable, int] = {}

    def take(self, owner: Hashable) -> int:
        """The round of this owner's next run."""
        # Who is behind the present round is as if it had never been here.
        self._last = {one: last for one, last in self._last.items() if last >= self._now}
        number = self._last[owner] = max(self._now, self._last.get(owner, -1) + 1)
        return number

    def begin(self, number: int) -> None:
        """A run of that round is begun."""
        self._now = max(self._now, number)
