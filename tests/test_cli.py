"""The command line."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from driver import H200, T400, stand_in
from PIL import Image
from support import command

from sdxl_lightning_mcp.catalogue import names
from sdxl_lightning_mcp.image import read_parameters

SMALL = ("--width", "512", "--height", "512")


def test_generate_prints_the_path_of_the_picture_and_nothing_else(tmp_path: Path) -> None:
    ended = command(
        "generate", "the sea", *SMALL, "--seed", "7", "--steps", "2", "--output-dir", str(tmp_path)
    )
    assert ended.returncode == 0, ended.stderr
    path = Path(ended.stdout.removesuffix("\n"))
    with Image.open(path) as opened:
        assert opened.size == (512, 512)
    assert path.parent == tmp_path
    assert read_parameters(path).seed == 7
    assert "Note: mini-1 is made for 4 steps; 2 were asked for." in ended.stderr
    assert "Seed 7\n" in ended.stderr


def test_generate_with_json_prints_one_object_of_facts(tmp_path: Path) -> None:
    ended = command(
        "--output-dir", str(tmp_path), "generate", "the sea", *SMALL, "--guidance", "2", "--json"
    )
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert Path(facts["path"]).exists()
    wanted = ("width", "height", "steps", "guidance", "model", "notes")
    assert {name: facts[name] for name in wanted} == {
        "width": 512,
        "height": 512,
        "steps": 4,
        "guidance": 2.0,
        "model": "mini",
        "notes": [],
    }
    assert facts["seed"] == read_parameters(facts["path"]).seed
    assert facts["duration_ms"] > 0


def test_on_a_terminal_a_bar_shows_the_steps(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    generate = ("-m", "sdxl_lightning_mcp", "generate", "the sea", *SMALL)
    with subprocess.Popen(
        [sys.executable, *generate, "--output-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(ours)
        assert process.stdout is not None
        path = process.stdout.read().decode().strip()
    assert Path(path).exists()
    assert b"opening mini-1" in shown
    assert b"step" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("generate", "x", "--width", "1001"), 2, "width: got '1001'; allowed: multiples of 8"),
        (("generate", "x", "--seed", "-1"), 2, "seed: got '-1'"),
        (("generate", ""), 2, "prompt: got an empty text"),
        (("generate", "x", "--model", "minni"), 2, "Did you mean mini?"),
        (("--model", "nothing"), 2, "there are: sd-xl-lightning, sdxl-base, mini,"),
        (("generate", "x", "--output-dir", "/dev/null/a"), 1, "cannot be written"),
        (("generate",), 2, "required: prompt"),
        (("draw",), 2, "invalid choice"),
        (("--device", "gpu"), 2, "--device: got 'gpu'"),
        (("--device", "cuda:9"), 2, "no cuda that the installed torch can use was found"),
        (("generate", "x", "--device", "cuda:9"), 2, "Choose auto or cpu with --device"),
        (("--model", "mine.safetensors"), 2, "there is no file or folder mine.safetensors"),
        (("--model", "sdxl-base", "--lora", "ink.safetensors"), 2, "no file ink.safetensors"),
    ],
)
def test_what_cannot_be_done_is_said_on_stderr_with_an_exit_code(
    arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = command(*arguments)
    assert ended.returncode == code
    assert message in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_models_lists_the_catalogue() -> None:
    ended = command("models")
    assert ended.returncode == 0
    rows = [line.split() for line in ended.stdout.splitlines()]
    (mini,) = (row for row in rows if row[:2] == ["mini-1", "4"])
    assert mini[3:] == ["MB", "on", "disk", "Apache-2.0"]
    listed = {row[0].rstrip(":") for row in rows if row}
    assert listed >= set(names())


def test_doctor_tries_every_part_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = command("doctor", "--output-dir", str(tmp_path))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [line.split(":")[0] for line in ended.stdout.splitlines()] == [
        "ok       software",
        "ok       device",
        "ok       memory",
        "ok       model",
        "ok       engines",
        "ok       folder",
        "ok       picture",
    ]
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_what_is_missing_and_the_cure() -> None:
    ended = command("doctor", "--model", "sd-xl-lightning", "--output-dir", "/dev/null/a")
    assert ended.returncode == 1
    assert "pull sd-xl-lightning. It would fail now: http://127.0.0.1:9 cannot be" in ended.stdout
    assert "missing  folder: The folder '/dev/null/a' cannot be written" in ended.stdout
    assert "--output-dir" in ended.stdout


def test_doctor_names_a_mistake_once_and_a_device_that_is_not_here(tmp_path: Path) -> None:
    unknown = command("doctor", "--model", "minni", "--output-dir", str(tmp_path))
    assert unknown.returncode == 1
    assert unknown.stdout.count("minni") == 1
    assert "missing  picture: not tried" in unknown.stdout
    absent = command("doctor", "--device", "mps", "--model", "mini", "--output-dir", str(tmp_path))
    if sys.platform != "darwin":
        assert "missing  device: no mps that the installed torch can use was found" in absent.stdout


def test_every_gpu_is_named_and_tried_in_a_worker_that_sees_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "driver", monkeypatch)
    folder = ("--output-dir", str(tmp_path / "pictures"))
    one = command("doctor", *folder).stdout
    assert "device: NVIDIA H200 with 150 GB; not used: NVIDIA T400 with 4 GB" in one
    assert f"it would see {H200}" in one
    both = command("doctor", "--device", "cuda:0,cuda:1", *folder).stdout
    assert "device: NVIDIA T400 with 4 GB, NVIDIA H200 with 150 GB, with 2 workers" in both
    for name, gpu in (("cuda:0", T400), ("cuda:1", H200)):
        assert f"{name}: The worker cannot start: it would see {gpu}" in both
    absent = command("--device", "cuda:2")
    assert absent.returncode == 2
    assert absent.stderr == (
        "sdxl-lightning-mcp: there is no cuda:2 here. "
        "There is: cuda:0 (NVIDIA T400), cuda:1 (NVIDIA H200).\n"
    )


def test_the_version_is_that_of_the_package() -> None:
    import sdxl_lightning_mcp

    assert command("--version").stdout.strip() == sdxl_lightning_mcp.__version__
