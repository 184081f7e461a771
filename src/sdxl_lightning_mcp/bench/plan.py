"""What is measured, and how often."""

import itertools
from dataclasses import dataclass, field

from sdxl_lightning_mcp.checkpoint import Model
from sdxl_lightning_mcp.request import Parameters, read_request, resolve

CLIENTS = (1, 2, 4, 8)
SHARES = (0.5, 0.8, 0.95)
MANY = CLIENTS[-1]
PICTURES = 100
QUICK_PICTURES = 4

SUBJECTS = ("a lighthouse", "a village", "a city skyline", "a red circle", "a sailboat", "a forest")
PLACES = ("by the sea", "in the mountains", "under the stars", "on a plain background")
LIGHTS = ("at night", "at sunset", "by day", "in a storm", "in the rain")


@dataclass(frozen=True)
class Plan:
    """How many pictures of which size each measurement takes.

    `pictures` are drawn one after another in each way; the other measurements take a share of
    that. `price` is of an hour of this machine.
    """

    pictures: int
    side: int
    against_diffusers: bool = False
    price: float | None = None
    numbering: "itertools.count[int]" = field(default_factory=itertools.count)

    @classmethod
    def of(
        cls,
        model: Model,
        *,
        pictures: int | None = None,
        quick: bool = False,
        against_diffusers: bool = False,
        price: float | None = None,
    ) -> "Plan":
        """A plan for a model; a quick one takes few and small pictures."""
        count = pictures or (QUICK_PICTURES if quick else PICTURES)
        side = int(model.side.low) if quick else model.native_size
        return cls(count, side, against_diffusers, price)

    @property
    def warm_ups(self) -> int:
        """Pictures before a measurement that do not count."""
        return min(self.pictures // 4, 5)

    @property
    def rounds(self) -> int:
        """How often contestants are called in turn, and how often a run is canceled."""
        return max(2, min(self.pictures // 5, 50))

    @property
    def bursts(self) -> int:
        """How often eight callers come at once."""
        return max(1, min(self.pictures // 25, 10))

    @property
    def arrivals(self) -> int:
        """Pictures at each rate of arrivals."""
        return max(4, self.pictures // 5)

    def loaded(self, clients: int) -> int:
        """Pictures for that many clients, as many for each."""
        return max(1, self.pictures // 5 // clients) * clients

    def take(self, count: int) -> list[int]:
        """Numbers of pictures that were not drawn before: no result of theirs can be remembered."""
        return list(itertools.islice(self.numbering, count))

    def arguments(self, number: int) -> dict[str, int | str]:
        """What a caller says for the picture of that number."""
        prompt = f"{prompt_of(number)}, number {number}"
        return {"prompt": prompt, "seed": number, "width": self.side, "height": self.side}

    def parameters(self, number: int, model: Model, steps: int | None = None) -> Parameters:
        """What is to be done for the picture of that number."""
        arguments = self.arguments(number) | ({} if steps is None else {"steps": steps})
        return resolve(read_request(arguments, model), model)[0]


def prompt_of(number: int) -> str:
    """A subject, a place and a light."""
    subject, number = SUBJECTS[number % len(SUBJECTS)], number // len(SUBJECTS)
    place, number = PLACES[number % len(PLACES)], number // len(PLACES)
    return f"{subject} {place} {LIGHTS[number % len(LIGHTS)]}"
