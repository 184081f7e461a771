"""Weights on their way here: over real HTTP, into huggingface_hub's own cache."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from hub import Hub, serve_hub
from mcp import Client
from mcp.client.stdio import stdio_client
from repositories import BASE, LIGHTNING_FILES, small_model
from support import PATIENCE, ROOT, stdio_server

from sdxl_lightning_mcp.catalogue import MINI
from sdxl_lightning_mcp.hub import verify

LAUNCH = ROOT / "tests" / "launch.py"
UNET = f"{LIGHTNING_FILES}/small_4step_unet.safetensors"


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with serve_hub(repositories) as serving:
        yield serving


class Person:
    """Someone at a terminal, with a cache of their own."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.cache = home / "hub"
        self.root = hub.root
        self.environment = {
            **os.environ,
            "HF_HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "SDXL_LIGHTNING_MODEL": "small",
            "XDG_CACHE_HOME": str(home / "cache"),
        }

    def runs(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, LAUNCH, self.root, *command],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


@pytest.fixture
def person(tmp_path: Path, hub: Hub) -> Person:
    return Person(tmp_path, hub)


def test_pull_fetches_only_the_files_that_the_model_needs(person: Person, hub: Hub) -> None:
    ended = person.runs("pull")
    assert ended.returncode == 0, ended.stderr
    fetched = {request.path for request in hub.requests if request.method == "GET"}
    wanted = {
        f"/{file.source.id}/resolve/{file.source.revision}/{file.path}"
        for file in small_model(hub.root, on_hub=True).checkpoint.all_files
    }
    # The two tokenizers have the same words, which come once.
    twins = {path for path in wanted if "tokenizer_2/" in path} - fetched
    assert {Path(path).name for path in twins} == {"merges.txt", "vocab.json"}
    assert fetched == wanted - twins
    assert not any("unet/diffusion_pytorch_model" in path for path in fetched)
    assert ended.stdout.startswith(f"small_4step_unet: {len(wanted)} files (")
    assert ended.stdout.endswith("all 16 files are here and right.\n")


def test_on_a_terminal_a_bar_shows_how_much_has_come(person: Person) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, LAUNCH, person.root, "pull"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**person.environment, "TERM": "xterm", "COLUMNS": "200"},
    ):
        os.close(theirs)
        shown = b""
        # Linux says so with an error when the other end is closed.
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
    assert re.search(rb"fetching \d+\.\d+ MB of 56\.\d+ MB: small_4step_unet", shown)


def test_checking_begins_with_how_much_there_is_and_then_counts() -> None:
    told: list[str] = []
    verify(MINI.checkpoint.all_files, lambda transfer: told.append(str(transfer)))
    assert re.fullmatch(r"checking \d+\.\d+ MB of weights", told[0])
    assert re.fullmatch(r"checking .+ [kM]B of \d+\.\d+ MB: .+", told[-1])


def test_the_licence_and_what_it_forbids_are_shown_at_the_first_pull_only(person: Person) -> None:
    first, second = person.runs("pull"), person.runs("pull", "small_8step_unet")
    assert "CreativeML Open RAIL++-M" in first.stderr
    assert "not for breaking the law, harming minors" in first.stderr
    assert second.returncode == 0
    assert second.stdout.startswith("small_8step_unet: 1 file (")
    assert "CreativeML" not in second.stderr


def test_a_picture_that_waits_for_weights_says_so_first_and_draws_then(person: Person) -> None:
    drawn = person.runs("generate", "a house", "--width", "256", "--height", "256")
    assert drawn.returncode == 0, drawn.stderr
    first, second = drawn.stderr.splitlines()[:2]
    assert re.fullmatch(r"Note: 56\.\d+ MB of weights are fetched before this picture\.", first)
    assert second.startswith("Note: Licence of small/")


def test_a_pull_that_is_interrupted_says_that_what_came_is_kept(person: Person, hub: Hub) -> None:
    hub.hold_after = 10_000_000
    with subprocess.Popen(
        [sys.executable, LAUNCH, person.root, "pull"],
        env=person.environment,
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a shell Ctrl-C is switched off for all that is started.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as pulling:
        while not [*person.cache.glob("models--*/blobs/*.part")]:
            assert pulling.poll() is None
        pulling.send_signal(signal.SIGINT)
        hub.released.set()
        _, said = pulling.communicate(timeout=PATIENCE)
    assert pulling.returncode == 130
    assert said.endswith("stopped; what was fetched is kept\n")


def test_with_everything_here_no_network_is_touched(person: Person, hub: Hub) -> None:
    assert person.runs("pull").returncode == 0
    hub.requests.clear()
    again = person.runs("pull", HF_HUB_OFFLINE="1")
    assert again.stdout == "small_4step_unet: nothing to fetch, all 16 files are here and right.\n"
    drawn = person.runs("generate", "a house", "--width", "256", "--height", "256", "--steps", "1")
    assert drawn.returncode == 0, drawn.stderr
    assert hub.requests == []


def test_offline_with_something_missing_says_what_how_much_and_how_to_get_it(
    person: Person, hub: Hub
) -> None:
    ended = person.runs("generate", "a house", HF_HUB_OFFLINE="1")
    assert ended.returncode == 1
    # On a machine that is slow to begin, lines before it say what it is at.
    line = ended.stderr.splitlines()[-1]
    assert "small/lightning/small_4step_unet.safetensors and 15 more files (" in line
    assert line.endswith("With a network: sdxl-lightning-mcp pull small")
    assert hub.requests == []


def test_a_broken_connection_is_taken_up_where_it_broke(person: Person, hub: Hub) -> None:
    hub.break_after = 10_000_000
    assert person.runs("pull").returncode == 0
    assert "bytes=10000000-" in hub.ranges


def test_what_an_ended_pull_left_is_gone_on_with_by_the_next(person: Person, hub: Hub) -> None:
    hub.hold_after = 10_000_000
    with subprocess.Popen(
        [sys.executable, LAUNCH, person.root, "pull"], env=person.environment
    ) as pulling:
        blobs = person.cache / "models--small--lightning" / "blobs"
        while not (parts := [*blobs.glob("*.part")]) or not parts[0].stat().st_size:
            assert pulling.poll() is None
        pulling.kill()
    hub.released.set()
    have = parts[0].stat().st_size
    assert person.runs("models").stdout.count("on disk") < 14
    hub.requests.clear()
    assert person.runs("pull").returncode == 0
    assert f"bytes={have}-" in hub.ranges


def test_two_pulls_at_once_fetch_each_file_once_and_both_end_well(person: Person, hub: Hub) -> None:
    pulls = [
        subprocess.Popen(
            [sys.executable, LAUNCH, person.root, "pull"],
            env=person.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for pull in pulls:
        said, _ = pull.communicate(timeout=PATIENCE)
        assert pull.returncode == 0
        assert said.endswith("all 16 files are here and right.\n")
    gets = [request.path for request in hub.requests if request.method == "GET"]
    assert len(gets) == len({*gets})


def test_a_file_with_other_contents_is_refused_and_not_kept(person: Person, hub: Hub) -> None:
    hub.corrupt = UNET
    ended = person.runs("pull")
    assert ended.returncode == 1
    assert "it came with other contents than published" in ended.stderr
    assert "small_4step_unet.safetensors (" in ended.stderr
    hub.corrupt = None
    assert person.runs("pull").returncode == 0


def test_a_file_that_went_bad_in_the_cache_is_named_and_pull_gets_it_anew(
    person: Person, hub: Hub
) -> None:
    assert person.runs("pull").returncode == 0
    (here,) = (person.cache / "models--small--lightning").glob("snapshots/*/*unet.safetensors")
    blob = here.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    drawn = person.runs("generate", "a house")
    assert drawn.returncode == 1
    assert "has other contents than published. Get it anew with: " in drawn.stderr
    assert drawn.stderr.strip().endswith("sdxl-lightning-mcp pull small")
    assert person.runs("pull").returncode == 0
    assert blob.read_bytes() == (hub.root / UNET).read_bytes()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuse", "503"),
        ("gated", "wants your consent first; give it there"),
        ("gone", "cannot be reached"),
    ],
)
def test_a_hub_that_does_not_give_is_named_with_the_cure_at_once(
    person: Person, hub: Hub, fault: str, reason: str
) -> None:
    setattr(hub, fault, True)
    gone = {"HF_ENDPOINT": "http://127.0.0.1:9"} if fault == "gone" else {}
    ended = person.runs("pull", **gone)
    assert ended.returncode == 1
    message = ended.stderr.splitlines()[-1]
    assert reason in message
    assert message.endswith("go on with: sdxl-lightning-mcp pull small")


def test_a_write_that_fails_leaves_nothing_taken_for_a_file(person: Person, hub: Hub) -> None:
    # The shell's limit on a file's size stands in for the end of the disk: the write fails.
    full = subprocess.run(
        ["bash", "-c", f"ulimit -f 4096; exec {sys.executable} {LAUNCH} {person.root} pull"],
        env=person.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert full.returncode == 1
    assert "cannot be fetched: [Errno 27] File too large" in full.stderr
    blobs = person.cache.glob("models--*/blobs/*")
    assert all(path.suffix in (".part", ".lock") or path.stat().st_size < 2**22 for path in blobs)
    assert person.runs("pull").returncode == 0


def test_a_cache_that_cannot_be_written_is_named(person: Person, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = person.runs("pull", HF_HOME=str(tmp_path / "file"))
    assert ended.returncode == 1
    assert "cannot be fetched" in ended.stderr
    assert "Not a directory" in ended.stderr


def test_models_lists_every_entry_with_size_licence_steps_and_whether_it_is_here(
    person: Person,
) -> None:
    before = person.runs("models").stdout
    assert person.runs("pull").returncode == 0
    after = person.runs("models").stdout
    for text, here in ((before, "MB"), (after, "on disk")):
        (row,) = (line for line in text.splitlines() if "small_4step_unet " in line)
        assert row.split()[1] == "4"
        assert here in row
        assert row.endswith("CreativeML Open RAIL++-M")
    (lora,) = (line for line in after.splitlines() if "small_4step_lora" in line)
    assert "on disk" not in lora


def test_steps_choose_the_file_that_is_made_for_them_where_it_is_here(person: Person) -> None:
    small = ("--width", "256", "--height", "256")
    assert person.runs("pull").returncode == 0
    four = person.runs("generate", "a house", *small, "--steps", "8")
    assert "small_4step_unet is made for 4 steps; 8 were asked for." in four.stderr
    assert "For 8 there is: sdxl-lightning-mcp pull small_8step_unet" in four.stderr
    assert person.runs("pull", "small_8step_unet").returncode == 0
    eight = person.runs("generate", "a house", *small, "--steps", "8", "--json")
    assert "Note:" not in eight.stderr
    assert '"checkpoint": "small_8step_unet"' in eight.stdout


@pytest.mark.anyio
async def test_a_tool_call_fetches_what_is_missing_with_one_worker_and_tells_how_far_it_is(
    person: Person, hub: Hub, tmp_path: Path
) -> None:
    told: list[tuple[float, str]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, message or ""))

    given = {name: person.environment[name] for name in ("HF_HOME", "HF_ENDPOINT")}
    server = stdio_server(
        str(LAUNCH),
        str(person.root),
        "--output-dir",
        str(tmp_path / "pictures"),
        "--device",
        "cpu,cpu",
        command=sys.executable,
        SDXL_LIGHTNING_MODEL="small",
        **given,
    )
    with anyio.fail_after(PATIENCE):
        async with Client(stdio_client(server)) as client:
            await client.list_tools()
            assert not any(BASE in request.path for request in hub.requests)
            result = await client.call_tool(
                "generate_image",
                {"prompt": "a house", "width": 256, "height": 256},
                progress_callback=tell,
            )
    assert not result.is_error
    fetching = [done for done, message in told if message.startswith("fetching ")]
    # The number moves with the weights, so that a bar does.
    assert 0.1 < max(fetching) < 1
    # One worker tells: the amount only grows, of one total.
    amounts = [
        re.findall(r"[\d.]+ [kM]B", message)
        for _, message in told
        if "fetching" in message and not message.endswith(" of weights")
    ]
    here = [float(have.split()[0]) for have, _ in amounts if have.endswith("MB")]
    assert here == sorted(here)
    assert len({total for _, total in amounts}) == 1
    gets = [request.path for request in hub.requests if request.method == "GET"]
    assert len(gets) == len({*gets})
    assert "CreativeML Open RAIL++-M" in result.content[1].text
