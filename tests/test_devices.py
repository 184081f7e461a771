"""Which devices get a worker each."""

import pytest

from sdxl_lightning_mcp.devices import Device, find_devices
from sdxl_lightning_mcp.errors import SettingsError
from sdxl_lightning_mcp.hardware import Accelerator

T400 = Accelerator("cuda", "NVIDIA T400", 4_000_000_000, "GPU-1")
H200 = Accelerator("cuda", "NVIDIA H200", 150_000_000_000, "GPU-2")
B200 = Accelerator("cuda", "NVIDIA B200", 190_000_000_000, "GPU-3")
APPLE = Accelerator("mps", "Apple GPU", 16_000_000_000)


@pytest.mark.parametrize(
    ("wanted", "found", "chosen"),
    [
        ("auto", [T400, H200, B200], ["cuda:1", "cuda:2"]),
        ("cuda", [T400, H200, B200], ["cuda:1", "cuda:2"]),
        ("cuda", [T400], ["cuda:0"]),
        ("cuda:0", [T400, H200], ["cuda:0"]),
        ("cuda:2,cuda:0", [T400, H200, B200], ["cuda:2", "cuda:0"]),
        ("mps", [APPLE], ["mps"]),
        ("cpu,cpu", [H200], ["cpu", "cpu"]),
    ],
)
def test_every_gpu_that_holds_sdxl_is_used_or_those_that_are_named(
    wanted: str, found: list[Accelerator], chosen: list[str]
) -> None:
    devices = find_devices(wanted, found)
    assert [device.name for device in devices] == chosen
    for device in devices:
        number = device.name.partition(":")[2]
        assert device.accelerator is (found[int(number or 0)] if device.kind != "cpu" else None)
        assert device.sharers == (2 if device.kind == "cpu" else 1)


@pytest.mark.parametrize(
    ("found", "gpu"), [([], None), ([T400], T400), ([T400, H200], H200), ([APPLE], APPLE)]
)
def test_auto_with_one_device_or_none_leaves_the_choice_to_torch(
    found: list[Accelerator], gpu: Accelerator | None
) -> None:
    assert find_devices("auto", found) == (Device("auto", gpu),)


@pytest.mark.parametrize(
    ("wanted", "found", "reason"),
    [
        (
            "cuda:9",
            [T400, H200],
            r"no cuda:9 here\. There is: cuda:0 \(NVIDIA T400\), cuda:1 \(NVIDIA H200\)",
        ),
        ("cuda:0,cuda:2", [T400, H200], "no cuda:2 here"),
        ("cuda:0", [], "no cuda that the installed torch can use was found. Choose auto or cpu"),
        ("cuda", [], "no cuda that the installed torch can use"),
        ("cuda", [APPLE], "no cuda that the installed torch can use"),
        ("mps", [H200], "no mps that the installed torch can use"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_those_that_are(
    wanted: str, found: list[Accelerator], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        find_devices(wanted, found)
