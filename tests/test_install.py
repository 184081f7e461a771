"""Entering the server into the settings of MCP clients."""

import json
import os
import stat
import sys
from pathlib import Path

import anyio
import pytest
import synthetic
from mcp import Client
from support import PATIENCE, ROOT, command, stdio_server

from sdxl_lightning_mcp import jsonc
from sdxl_lightning_mcp.clients import NAMES
from sdxl_lightning_mcp.errors import SettingsError

ENTRY = {"command": "/bin/x", "args": ["--model", "mini"]}
FILES = {
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "claude-code": ".claude.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
}
# What stands in these files, in the many ways in which people and programs write them.
TEXTS = [
    "",
    "{}",
    "{ }\n",
    "{\n}\n",
    '{"theme": "dark"}',
    '{\n  "theme": "dark"\n}\n',
    '{\n\t"theme": "dark",\n\t"mcpServers": {}\n}\n',
    '{\r\n    "mcpServers": {\r\n        "other": {"command": "a"}\r\n    }\r\n}\r\n',
    '\ufeff{"mcpServers":{"other":{"command":"a","args":[]}},"last":[1,2,{"a":null}]}',
    '{"mcpServers": {"sdxl-lightning": {"command": "/old"}}, "b": "ü \\u00fc \\" } {"}',
    '{\n  "mcpServers": {\n    "sdxl-lightning": {\n      "command": "/old"\n    }\n  }\n}\n',
    '{"mcpServers": {"sdxl-lightning": {"command": "/bin/x", "args": ["--model", "mini"]}}}',
]
# Only where the client takes comments.
COMMENTED = [
    "// mine\n{\n  // none yet\n}\n",
    '{\n  "mcpServers": { // all of them\n    "other": {"command": "a"} // the only one }\n  }\n}',
    '{\n  "a": 1, // one\n  /* two\n  lines */ "b": 2, // trailing comma\n}\n// end',
    '{"a": [1, 2,], "mcpServers": {"other": {},},}',
    '{"mcpServers": {"a": 1 /* x */ } /* y */, "b": {"c": 2 /* z */ } /* , */ }',
    '{\n  "mcpServers": {\n    "other": {} /* } */\n    // before a comma\n    ,\n  },\n}\n',
]


def is_subsequence(before: str, after: str) -> bool:
    """Whether every character of the one stands in the other, in that order."""
    rest = iter(after)
    return all(character in rest for character in before)


@pytest.mark.parametrize("text", [*TEXTS, *COMMENTED])
def test_an_entry_is_put_into_any_text_and_nothing_else_of_it_changes(text: str) -> None:
    comments = text in COMMENTED
    before = jsonc.read(text or "{}", comments=comments).value
    after = jsonc.put(text, ("mcpServers", "sdxl-lightning"), ENTRY, comments=comments)
    servers = {**before.get("mcpServers", {}), "sdxl-lightning": ENTRY}
    assert jsonc.read(after, comments=comments).value == {**before, "mcpServers": servers}
    if not comments:
        assert json.loads(after.removeprefix("\ufeff")) == {**before, "mcpServers": servers}
    assert is_subsequence(text.replace('"/old"', ""), after)
    assert ("\r\n" in after) == ("\r\n" in text)
    assert after.count("\n") == after.count("\r\n") or "\r\n" not in text
    assert jsonc.put(after, ("mcpServers", "sdxl-lightning"), ENTRY, comments=comments) == after


def test_an_entry_is_indented_as_its_neighbours_are() -> None:
    text = '{\n   "mcpServers": {\n      "other": {\n         "command": "a"\n      }\n   }\n}\n'
    assert jsonc.put(text, ("mcpServers", "new"), {"command": "b"}, comments=False) == (
        '{\n   "mcpServers": {\n      "other": {\n         "command": "a"\n      },\n'
        '      "new": {\n         "command": "b"\n      }\n   }\n}\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2: a name in quotation marks was expected"),
        ('{"a": 1', "a comma or } was expected, not 'the end of the line'"),
        ('{"a": 1,}', "line 1, column 9: a name in quotation marks was expected, not '}'"),
        ('{\n  // mine\n  "a": 1\n}', "line 2, column 3"),
        ('{"a": NaN}', "line 1, column 7: a value was expected, not 'NaN}'"),
        ('{"a": "\n"}', "line 1, column 8: a value was expected"),
        ("{} {}", "line 1, column 4: the end was expected"),
        ("[]", "the whole is not an object"),
        ('{"mcpServers": []}', "mcpServers is not an object"),
        ('{"mcpServers": {}, "mcpServers": {}}', "mcpServers stands there twice"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        jsonc.put(text, ("mcpServers", "sdxl-lightning"), ENTRY, comments=False)
    assert message in str(caught.value)


def home_file(name: str) -> Path:
    return Path(os.environ["HOME"]) / FILES[name]


@pytest.fixture
def _linux() -> None:
    if sys.platform != "linux":
        pytest.skip("the clients' folders are elsewhere on this system")


@pytest.mark.usefixtures("_linux")
@pytest.mark.parametrize("name", NAMES)
def test_a_client_gets_an_entry_a_copy_of_its_file_is_kept_and_doctor_sees_it(name: str) -> None:
    file = home_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    before = '{\n    "other": [1, 2]\n}\n'
    file.write_text(before)
    file.chmod(0o600)

    installed = command("install", name, "--device", "cpu")
    assert installed.returncode == 0, installed.stderr
    (copy,) = file.parent.glob(f"{file.name}.*.bak")
    assert copy.read_text() == before
    assert str(copy) in installed.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = json.loads(file.read_text())
    (servers,) = (written[key] for key in written if key != "other")
    entry = servers["sdxl-lightning"]
    assert Path(entry["command"]).is_absolute()
    assert entry["args"][-2:] == ["--device", "cpu"]
    assert entry.get("type", "stdio") == "stdio"

    again = command("install", name, "--device", "cpu")
    assert "has it already" in again.stdout
    assert list(file.parent.glob(f"{file.name}.*")) == [copy]
    doctor = command("doctor", "--device", "mps")
    assert f"ok       {name}: it starts {entry['command']}" in doctor.stdout


@pytest.mark.usefixtures("_linux")
def test_however_often_it_is_entered_anew_the_first_copy_and_the_last_are_kept() -> None:
    file = home_file("claude-desktop")
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    before: list[str] = []
    for speed in ("normal", "fast", "exact"):
        before.append(file.read_text())
        assert command("install", "claude-desktop", "--speed", speed).returncode == 0
    kept = {path.name.rpartition("-")[2]: path.read_text() for path in file.parent.glob("*.bak")}
    assert kept == {"first.bak": before[0], "last.bak": before[2]}


@pytest.mark.usefixtures("_linux")
def test_what_a_person_added_to_our_entry_stays_and_a_link_stays_a_link(tmp_path: Path) -> None:
    file = home_file("vscode")
    file.parent.mkdir(parents=True)
    real = tmp_path / "dotfiles.json"
    real.write_text(
        '{ // mine\n  "servers": {\n    "sdxl-lightning": {\n      "command": "/old",\n'
        '      "env": {"A": "1"}, // keep\n    },\n  },\n}\n'
    )
    file.symlink_to(real)
    assert command("install", "vscode").returncode == 0
    assert file.is_symlink()
    text = real.read_text()
    assert '"env": {"A": "1"}, // keep' in text
    assert text.startswith("{ // mine")
    assert "/old" not in text


@pytest.mark.usefixtures("_linux")
def test_a_file_that_cannot_be_read_is_left_as_it_is_and_doctor_says_so() -> None:
    file = home_file("claude-desktop")
    file.parent.mkdir(parents=True)
    file.write_text('{"mcpServers": {},}')
    refused = command("install", "claude-desktop")
    assert refused.returncode == 2
    assert f"{file}: line 1, column 19: a name in quotation marks was expected" in refused.stderr
    assert list(file.parent.iterdir()) == [file]
    assert file.read_text() == '{"mcpServers": {},}'
    doctor = command("doctor", "--device", "mps")
    assert f"missing  claude-desktop: {file}: line 1, column 19" in doctor.stdout


@pytest.mark.usefixtures("_linux")
def test_doctor_names_clients_without_us_and_commands_that_are_gone() -> None:
    home_file("cursor").parent.mkdir()
    home_file("claude-code").write_text(
        '{"mcpServers": {"sdxl-lightning": {"command": "/gone/sdxl-lightning-mcp"}}}'
    )
    printed = command("doctor", "--device", "mps").stdout
    assert "optional cursor: it is here and does not know this server yet" in printed
    assert (
        "missing  claude-code: it starts /gone/sdxl-lightning-mcp, which is not there: "
        "sdxl-lightning-mcp install claude-code" in printed
    )
    assert "vscode" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("install", "claude-desktop"), "Claude Desktop was not found here"),
        (("install", "emacs"), "invalid choice: 'emacs'"),
        (("install",), "Name a client: claude-desktop, claude-code, cursor, vscode (here: none"),
        (("install", "cursor", "--model", "minni"), "Did you mean mini?"),
        (("install", "cursor", "--device", "gpu"), "--device: got 'gpu'"),
    ],
)
def test_what_cannot_be_entered_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], message: str
) -> None:
    home = Path(os.environ["HOME"])
    ended = command(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert list(home.iterdir()) == []


@pytest.mark.anyio
async def test_what_is_printed_starts_the_server_from_an_empty_folder(tmp_path: Path) -> None:
    synthetic.write_unet(tmp_path / "mine.safetensors", seed=1)
    wish = ("--private", "--model", "mine.safetensors")
    printed = command("install", "--print", *wish, cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    entry = json.loads(printed.stdout)["mcpServers"]["sdxl-lightning"]
    assert "--private" in entry["args"]
    assert str(tmp_path / "mine.safetensors") in entry["args"]
    empty = tmp_path / "empty"
    empty.mkdir()
    server = stdio_server(*entry["args"], command=entry["command"], cwd=empty)
    with anyio.fail_after(PATIENCE):
        async with Client(server, mode="legacy") as client:
            assert client.server_info.name == "sdxl-lightning-mcp"


def test_the_readme_names_every_client() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(name in readme for name in NAMES)
