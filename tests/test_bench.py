"""The benchmark: its arithmetic exactly, and a whole run of it, small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from http_server import serving
from PIL import Image
from support import PATIENCE

from sdxl_lightning_mcp.bench.asking import closed_loop, in_turn, open_loop
from sdxl_lightning_mcp.bench.baseline import call_pipeline, open_pipeline
from sdxl_lightning_mcp.bench.figures import (
    Load,
    Section,
    percentile,
    poisson_arrivals,
    shown,
    slope,
)
from sdxl_lightning_mcp.bench.plan import CLIENTS, SHARES, Plan
from sdxl_lightning_mcp.bench.plot import nice_ticks, plot
from sdxl_lightning_mcp.bench.random_weights import NAME, random_weights
from sdxl_lightning_mcp.bench.report import Report
from sdxl_lightning_mcp.bench.ways import API, ENGINE, LOCKED, MCP, OVER_HTTP
from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.cli import main
from sdxl_lightning_mcp.engine.sdxl import Sdxl
from sdxl_lightning_mcp.engine.synthetic import write_base
from sdxl_lightning_mcp.environment import environment_with, load_settings
from sdxl_lightning_mcp.selection import select

# --- arithmetic ------------------------------------------------------------------------------


def test_a_percentile_lies_straight_between_the_nearest_two_values() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, p) for p in (0, 50, 75, 100)] == [1.0, 2.5, 3.25, 4.0]
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_there_is_no_percentile_of_nothing_and_none_beyond_all(
    values: list[float], percent: float
) -> None:
    with pytest.raises(ValueError, match="no "):
        percentile(values, percent)


def test_the_slope_of_a_line_is_its_growth_with_no_error() -> None:
    assert slope([5.0, 7.0, 9.0, 11.0]) == (2.0, 0.0)


def test_the_slope_of_scattered_values_is_that_of_least_squares_with_its_error() -> None:
    # Off the line 1.3 + 0.8 x by 0.3, 0.9, 0.9 and 0.3: the error is root(1.8 / 2 / 5).
    growth, error = slope([1.0, 3.0, 2.0, 4.0])
    assert growth == pytest.approx(0.8)
    assert error == pytest.approx(0.18**0.5)


def test_arrivals_are_the_same_for_the_same_seed_and_come_at_the_rate_asked_for() -> None:
    arrivals = poisson_arrivals(10_000, rate=4.0)
    assert arrivals == poisson_arrivals(10_000, rate=4.0) == sorted(arrivals)
    assert arrivals != poisson_arrivals(10_000, rate=4.0, seed=1)
    assert poisson_arrivals(10, rate=8.0) == pytest.approx([t / 2 for t in arrivals[:10]])
    gaps = np.diff(arrivals)
    # Of an exponential distribution the mean and the deviation are the same.
    assert np.mean(gaps) == pytest.approx(0.25, rel=0.05)
    assert np.std(gaps) == pytest.approx(0.25, rel=0.05)


def test_figures_are_shown_with_three_digits_or_all_of_a_whole_number() -> None:
    assert [shown(v) for v in (0.12345, 12.345, 1234.5, 134088, "8 of 8")] == [
        "0.123",
        "12.3",
        "1234",
        "134088",
        "8 of 8",
    ]


def test_axes_are_marked_with_round_numbers_up_to_above_the_highest_value() -> None:
    assert nice_ticks(2.0) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert nice_ticks(13.0) == [0.0, 5.0, 10.0, 15.0]
    assert nice_ticks(0.011) == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012])


# --- asking ----------------------------------------------------------------------------------


def test_no_two_pictures_of_a_run_have_the_same_prompt_or_seed() -> None:
    plan = Plan.of(MINI)
    numbers = [number for _ in range(10) for number in plan.take(100)]
    assert len({plan.arguments(number)["prompt"] for number in numbers}) == 1000
    assert len({plan.arguments(number)["seed"] for number in numbers}) == 1000


@pytest.mark.parametrize("pictures", [4, 100, 500])
def test_each_client_draws_as_many_pictures_as_the_others(pictures: int) -> None:
    plan = Plan.of(MINI, pictures=pictures)
    assert all(plan.loaded(count) % count == 0 < plan.loaded(count) for count in CLIENTS)


@pytest.mark.anyio
async def test_clients_ask_for_the_next_picture_when_they_have_one_until_all_are_drawn() -> None:
    drawing, most, drawn = 0, 0, list[int]()

    async def draw(number: int) -> None:
        nonlocal drawing, most
        drawing += 1
        most = max(most, drawing)
        await anyio.lowlevel.checkpoint()
        drawing -= 1
        drawn.append(number)

    with anyio.fail_after(PATIENCE):
        load = await closed_loop("a way", draw, range(10), 3)
    assert sorted(drawn) == [*range(10)]
    assert most == load.clients == 3
    assert load.pictures_a_second == pytest.approx(10 / load.seconds)


@pytest.mark.anyio
async def test_callers_come_whether_or_not_those_before_them_have_been_served() -> None:
    came, all_came = 0, anyio.Event()

    async def draw(_: int) -> None:
        nonlocal came
        came += 1
        if came == 5:
            all_came.set()
        await all_came.wait()

    with anyio.fail_after(PATIENCE):
        load = await open_loop("a way", draw, range(5), poisson_arrivals(5, rate=1000))
    assert len(load.latencies) == 5
    assert 0 < min(load.latencies) <= max(load.latencies) <= load.seconds


@pytest.mark.anyio
async def test_contestants_draw_the_same_pictures_in_turn() -> None:
    drawn: list[tuple[str, int]] = []

    def contestant(name: str) -> Any:
        async def draw(number: int) -> None:
            drawn.append((name, number))

        return draw

    medians = await in_turn({name: contestant(name) for name in "AB"}, [4, 5])
    assert drawn == [("A", 4), ("B", 4), ("A", 5), ("B", 5)]
    assert medians.keys() == {"A", "B"}


def test_the_plain_pipeline_draws_the_engines_picture_bit_for_bit(mini: Sdxl) -> None:
    plan = Plan.of(MINI, quick=True)
    theirs = call_pipeline(open_pipeline(MINI, "cpu", "float32"), MINI, plan, 7)
    sample = mini.prepare("a run", plan.parameters(7, MINI))
    while not sample.denoised:
        mini.denoise([sample])
    assert np.array_equal(np.asarray(mini.decode(sample)), np.asarray(theirs))


# --- what it starts from ---------------------------------------------------------------------


def test_a_process_started_with_the_environment_of_settings_has_these_settings() -> None:
    settings = load_settings({}, model="mini", lora=["a:2", "b"], device="cpu", max_batch=3)
    assert load_settings(environment_with(settings)) == settings


def test_random_weights_are_written_once_and_drawn_with_as_lightning_is(tmp_path: Path) -> None:
    write_base(tmp_path / NAME, safe_vae=True)
    told: list[str] = []
    model = select(str(random_weights(told.append, tmp_path)))
    assert told == []
    checkpoint = model.checkpoint
    assert (checkpoint.steps, checkpoint.guidance, checkpoint.spacing) == (4, 0.0, "trailing")
    assert json.loads((tmp_path / NAME / "vae/config.json").read_text())["force_upcast"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--pictures", "3"), 2, "--pictures: got 3; allowed: 4 to 100000."),
        (("--pictures", "many"), 2, "invalid int value: 'many'"),
        (("--hourly-price", "0"), 2, "--hourly-price: got 0; allowed: a price above 0."),
        (("--hourly-price", "nan"), 2, "--hourly-price: got nan"),
        (("--against", "comfy"), 2, "invalid choice: 'comfy'"),
        (("--weights", "random", "--model", "mini"), 2, "leave --model out"),
        (("--plot", "speed.jpg"), 2, "--plot: got speed.jpg; name it speed.png."),
        (("--json", "/nowhere/speed.json"), 2, "--json: /nowhere/speed.json cannot be written"),
        (("--connect", "http://a:1,http://b:1"), 2, "one server is measured at a time"),
        (("--connect", "http://a:1", "--against", "diffusers"), 2, "a server as it is"),
        (("--model", "sdxl-base"), 1, "to fetch first: sdxl-lightning-mcp pull sdxl-base."),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    arguments: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["bench", *arguments])
    assert exited.value.code == code
    assert message in capsys.readouterr().err


def test_a_server_that_runs_is_measured_over_http(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, "--model", "mini", "--device", "cpu") as served:
        flags = ["--connect", served.url, "--json", str(tmp_path / "bench.json")]
        with pytest.raises(SystemExit) as exited:
            main(["bench", "--quick", "--model", "auto", *flags])
    assert exited.value.code == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    assert {load["way"] for load in content["loads"]} == {OVER_HTTP}
    assert [load["clients"] for load in content["loads"]] == [*CLIENTS, None, None, None]
    assert content["machine"]["device"] == served.url
    assert f"{OVER_HTTP}, p95" in capsys.readouterr().out


def test_a_picture_that_fails_ends_the_benchmark_with_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["bench", "--quick", "--model", "mini", "--output-dir", "/dev/null/a"])
    assert exited.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "The folder '/dev/null/a' cannot be written" in told.err.splitlines()[-1]


# --- what comes of it ------------------------------------------------------------------------


def test_the_report_shows_the_sections_in_their_order_and_the_same_figures_as_json() -> None:
    report = Report({"machine": "a machine"})
    report.add(Section.MEMORY, "RSS", 12.345, "MiB")
    report.loads.append(Load("a way", 2.0, (0.5, 1.5, 1.0, 1.0), clients=2))
    lines = str(report).splitlines()
    assert [line for line in lines if line and line[0] != " "] == [
        Section.MACHINE,
        Section.CLIENTS,
        Section.MEMORY,
    ]
    assert "2 pictures/s, p95 1.43 s" in str(report)
    assert lines[-1].endswith("12.3 MiB")
    content = json.loads(report.as_json())
    assert content["figures"] == [
        {"section": "Memory", "name": "RSS", "value": 12.345, "unit": "MiB"}
    ]
    assert (content["loads"][0]["pictures"], content["loads"][0]["p50"]) == (4, 1.0)


def test_the_plot_draws_every_way_in_a_colour_of_its_own(tmp_path: Path) -> None:
    loads = [
        Load(way, 1.0, (seconds,) * clients, clients=clients)
        for way, seconds in (("ours", 0.5), ("theirs", 1.0))
        for clients in CLIENTS
    ]
    path = tmp_path / "plot.png"
    path.write_bytes(plot(loads, "two ways"))
    with Image.open(path) as page:
        assert page.format == "PNG"
        colours = {colour for _, colour in page.convert("RGB").getcolors(2**24) or []}
    assert {(0x0B, 0x6E, 0x99), (0xD9, 0x73, 0x0D)} <= colours


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A quick run of the whole benchmark on mini, as its JSON tells it."""
    folder = tmp_path_factory.mktemp("bench")
    flags = ["--quick", "--against", "diffusers", "--hourly-price", "2", "--model", "mini"]
    files = ["--json", folder / "bench.json", "--plot", folder / "bench.png"]
    ended = subprocess.run(
        [sys.executable, "-m", "sdxl_lightning_mcp", "bench", *flags, *files],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.png"}
    return {**json.loads((folder / "bench.json").read_text()), "stdout": ended.stdout}


def value(measured: dict[str, Any], name: str) -> float:
    (found,) = (figure["value"] for figure in measured["figures"] if figure["name"] == name)
    return found


def test_every_way_is_measured_with_every_number_of_clients_and_rate(
    measured: dict[str, Any],
) -> None:
    closed = [(one["way"], one["clients"]) for one in measured["loads"] if one["clients"]]
    assert sorted(closed) == sorted((way, n) for way in (API, MCP, LOCKED) for n in CLIENTS)
    rated = [(one["way"], one["share"]) for one in measured["loads"] if one["share"]]
    assert rated == [(way, share) for way in (API, MCP) for share in SHARES]


def test_what_a_load_tells_fits_together(measured: dict[str, Any]) -> None:
    for load in measured["loads"]:
        assert load["pictures"] == len(load["latencies"])
        assert load["pictures_a_second"] * load["seconds"] == pytest.approx(load["pictures"])
        assert 0 < load["p50"] <= load["p95"] <= load["p99"]
        assert load["p99"] <= max(load["latencies"]) + 1e-4
        assert max(load["latencies"]) <= load["seconds"] + 1e-4


def test_rates_of_arrivals_are_shares_of_the_most_that_any_number_of_clients_reached(
    measured: dict[str, Any],
) -> None:
    for way in (API, MCP):
        loads = [load for load in measured["loads"] if load["way"] == way]
        most = max(load["pictures_a_second"] for load in loads if load["clients"])
        for load in loads:
            if load["share"]:
                assert load["rate"] == pytest.approx(load["share"] * most)


def test_ratios_are_those_of_the_figures_beside_them(measured: dict[str, Any]) -> None:
    ours = value(measured, f"{MCP}, p50, in turn with {ENGINE}")
    other = value(measured, f"{ENGINE}, p50, in turn with {MCP}")
    assert value(measured, f"{MCP} / {ENGINE}") == pytest.approx(ours / other)
    alone = value(measured, f"{MCP}, one by one, total p50")
    total = value(measured, f"{MCP}, at once, total p50")
    assert value(measured, "at once / one by one") == pytest.approx(total / alone)
    assert 0 < value(measured, "first answer / total") <= 1
    ours, other = (value(measured, f"{way}, p95, eight at once") for way in (MCP, LOCKED))
    assert value(measured, f"{MCP} / {LOCKED}, p95") == pytest.approx(ours / other)


def test_the_figures_that_are_promised_are_there_and_those_of_a_gpu_are_not(
    measured: dict[str, Any],
) -> None:
    names = "\n".join(figure["name"] for figure in measured["figures"])
    for promised in (
        "longest wait of the server's event loop until the first picture",
        "longest wait of the server's event loop while eight clients draw",
        "from cancel to free device, less one step",
        "growth of server and worker over 4 pictures",
        "RSS of the worker, peak",
        f"{ENGINE} / plain pipeline, float32",
        "process start to picture",
    ):
        assert promised in names
    if "cpu" in measured["machine"]["device"]:
        assert "GPU" not in names


def test_no_device_does_more_than_its_ceiling_and_a_dollar_buys_what_was_measured(
    measured: dict[str, Any],
) -> None:
    assert 0 < value(measured, f"{ENGINE}, share of that") < 1
    assert 0 < value(measured, f"{MCP} at capacity, share of that") < 1
    loads = [load for load in measured["loads"] if load["way"] == MCP and load["clients"]]
    most = max(load["pictures_a_second"] for load in loads)
    bought = value(measured, "pictures for a dollar, at 2 an hour")
    assert bought == pytest.approx(most * 3600 / 2)


def test_the_table_shows_a_row_for_each_figure(measured: dict[str, Any]) -> None:
    rows = [line.strip() for line in measured["stdout"].splitlines()]
    for figure in measured["figures"]:
        assert any(row.startswith(figure["name"]) for row in rows)
