"""What --device says, as the devices that get a worker each."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.hardware import Accelerator

# A "6 GB" card has a little less; a Mac shares its memory with everything else.
LEAST_MEMORY = {"cuda": 5.5e9, "mps": 15e9}


@dataclass(frozen=True)
class Device:
    """Where one worker draws.

    `name` is what a person calls it, as cuda:1; auto leaves it to torch. `accelerator` is the GPU
    behind the name, where one was found. `sharers` workers have the processor among them, and
    this is the one with that `number`.
    """

    name: str = "auto"
    accelerator: Accelerator | None = None
    sharers: int = 1
    number: int = 0

    @property
    def kind(self) -> str:
        """What torch is asked for in the worker, which sees no other GPU: auto, cuda, mps, cpu."""
        return self.name.partition(":")[0]


def find_devices(wanted: str, found: Sequence[Accelerator]) -> tuple[Device, ...]:
    """The devices that `wanted` names, each for a worker of its own.

    Args:
        wanted: auto, cuda, mps, or names with commas between them: cuda:0,cuda:1 or cpu,cpu.
            auto and cuda are every GPU that holds SDXL, or else the largest.
        found: The GPUs of this machine, in the order of their numbers.

    Raises:
        SettingsError: One of them is not here.
    """
    names = wanted.split(",")
    if set(names) == {"cpu"}:
        count = len(names)
        return tuple(Device("cpu", sharers=count, number=number) for number in range(count))
    every = {
        f"cuda:{number}" if one.kind == "cuda" else one.kind: one
        for number, one in enumerate(found)
    }
    if wanted == "auto":
        chosen = _large_enough(every)
        if len(chosen) > 1:
            return chosen
        # One device is left to torch, which knows better still whether it can be used.
        return (Device("auto", chosen[0].accelerator if chosen else None),)
    if wanted == "cuda":
        every = {name: one for name, one in every.items() if one.kind == "cuda"}
        names = [device.name for device in _large_enough(every)] or names
    absent = next((name for name in names if name not in every), None)
    if absent is not None:
        raise SettingsError(_not_here(absent, every))
    return tuple(Device(name, every[name]) for name in names)


def _large_enough(every: dict[str, Accelerator]) -> tuple[Device, ...]:
    """Those that hold SDXL; where none does, the largest."""
    large = [name for name, one in every.items() if one.memory >= LEAST_MEMORY[one.kind]]
    if every and not large:
        large = [max(every, key=lambda name: every[name].memory)]
    return tuple(Device(name, every[name]) for name in large)


def _not_here(name: str, every: dict[str, Accelerator]) -> str:
    kind, numbered, _ = name.partition(":")
    if numbered and every:
        there = ", ".join(f"{other} ({one.name})" for other, one in every.items())
        return f"there is no {name} here. There is: {there}."
    return (
        f"no {kind} that the installed torch can use was found. "
        "Choose auto or cpu with --device or SDXL_LIGHTNING_DEVICE."
    )
