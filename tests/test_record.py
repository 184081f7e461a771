"""The record of runs, shared by processes of which some are killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from mcp import Client
from support import PATIENCE, mini_runner, stdio_server, until_step

from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.errors import (
    ClosingError,
    KeyInUseError,
    QueueFullError,
    RunCanceledError,
    RunFailedError,
    SdxlLightningError,
    StorageError,
)
from sdxl_lightning_mcp.image import GeneratedImage, read_parameters
from sdxl_lightning_mcp.record import MAX_RESUMES, Record
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Key, Origin, Run, Status
from sdxl_lightning_mcp.store import Store

pytestmark = pytest.mark.anyio

# A process that begins a run and then does nothing more, until it is killed.
PROCESS = """
import sys
from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.request import Parameters
from sdxl_lightning_mcp.run import Run
from sdxl_lightning_mcp.store import Store
from pathlib import Path

folder, command, parameters, count = sys.argv[1:]
record = Record(Database(Path(folder, "data")), Store(Path(folder, "pictures")), command)
for _ in range(int(count)):
    run = Run(Parameters.model_validate_json(parameters), [])
    record.begin([run])
    print(run.id, flush=True)
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def record_of(folder: Path, command: str = "stdio") -> Iterator[Record]:
    record = Record(Database(folder / "data"), Store(folder / "pictures"), command)
    with closing(record):
        yield record


def other_process(
    folder: Path, command: str, parameters: Parameters, count: int = 1
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, folder, command, parameters.model_dump_json(), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ids_of(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    ids: list[str] = []
    for line in process.stdout:
        if line == "done\n":
            return ids
        ids.append(line.strip())
    raise AssertionError("the process ended")


def kill(process: "subprocess.Popen[str]") -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def ended(run: Run, jpeg: bytes, store: Store) -> Run:
    """The run with a picture of those bytes."""
    run.path = store.save(GeneratedImage(jpeg, run.parameters), run.id, run.created)
    run.size = len(jpeg)
    run.settle(Status.SUCCEEDED)
    return run


async def test_a_run_is_on_record_before_it_is_acknowledged_and_with_its_end(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE), record_of(tmp_path) as record, record_of(tmp_path) as other:
        async with mini_runner(tmp_path / "pictures", record=record) as runner:
            run = await runner.submit(parameters, ("a note",))
            begun = other.find(run.id)
            assert runner.find(run.id) is run
            path = await run.finished()
            assert runner.find(run.id) is None
        succeeded = other.find(run.id)
    assert begun is not None
    assert (begun.status, begun.parameters, begun.notes) == (
        Status.QUEUED,
        parameters,
        ["a note"],
    )
    assert succeeded is not None
    assert succeeded.facts == run.facts
    assert (succeeded.status, succeeded.path) == (Status.SUCCEEDED, path)
    assert succeeded.size == path.stat().st_size
    assert succeeded.created == run.created
    assert run.created < succeeded.started_at < succeeded.completed_at


async def test_runs_that_fail_or_are_canceled_are_on_record_with_the_reason(
    tmp_path: Path, parameters: Parameters
) -> None:
    pictures = tmp_path / "pictures"
    long = parameters.model_copy(update={"steps": 12, "width": 1536, "height": 1536})
    with anyio.fail_after(PATIENCE), record_of(tmp_path) as record:
        async with mini_runner(pictures, record=record) as runner:
            lost, canceled, left = [await runner.submit(long) for _ in range(3)]
            await runner.cancel(canceled)
            await until_step(lost, 1)
            pictures.rmdir()
            pictures.write_text("in the way")
            with pytest.raises(StorageError):
                await lost.finished()
        found = [record.find(run.id) for run in (lost, canceled, left)]
    assert [run.status for run in found] == [Status.FAILED, Status.CANCELED, Status.CANCELED]
    assert [type(run.error) for run in found] == [StorageError, RunCanceledError, RunCanceledError]
    assert "cannot be written" in str(found[0].error)
    assert str(found[2].error) == "The server was closed before the run ended."


@pytest.mark.parametrize(
    "error", [RunFailedError("It failed."), ClosingError("It is about to end.")], ids=repr
)
def test_the_reason_of_a_run_comes_back_as_the_error_that_it_was(
    tmp_path: Path, parameters: Parameters, error: SdxlLightningError
) -> None:
    run = Run(parameters, [])
    with record_of(tmp_path) as record:
        record.begin([run])
        run.settle(Status.FAILED, error)
        record.end([run])
        found = record.find(run.id)
    assert found is not None
    assert (type(found.error), str(found.error)) == (type(error), str(error))


async def test_runs_that_do_not_fit_into_the_queue_together_are_not_begun_at_all(
    tmp_path: Path, parameters: Parameters
) -> None:
    with anyio.fail_after(PATIENCE), record_of(tmp_path) as record:
        async with mini_runner(tmp_path / "pictures", record=record, max_queue=2) as runner:
            with pytest.raises(QueueFullError, match=r"0 runs are waiting, of 2\."):
                await runner.submit_all([Run(parameters, []) for _ in range(3)])
            assert record.latest(10) == []
            together = [Run(parameters, []) for _ in range(2)]
            await runner.submit_all(together)
            assert [run.id for run in record.latest(10)] == [run.id for run in together[::-1]]


def test_the_newest_come_first_page_by_page_and_to_each_owner_its_own(
    tmp_path: Path, parameters: Parameters
) -> None:
    with record_of(tmp_path) as record:
        runs = [
            Run(parameters, [], Origin(owner="ab"[index % 2], context={"index": index}))
            for index in range(5)
        ]
        record.begin(runs)
        newest = [run.id for run in runs[::-1]]
        first = record.latest(2)
        assert [run.id for run in first] == newest[:2]
        assert [run.id for run in record.latest(10, before=first[-1].id)] == newest[2:]
        assert [run.origin.context["index"] for run in record.latest(10, owner="a")] == [4, 2, 0]
        assert record.find(runs[0].id, owner="a") is not None
        assert record.find(runs[0].id, owner="b") is None
        assert record.find("../../etc/passwd") is None


def test_what_a_killed_client_s_server_left_has_failed_and_what_lives_is_not_touched(
    tmp_path: Path, parameters: Parameters
) -> None:
    with ExitStack() as stack:
        killed, living = (other_process(tmp_path, "stdio", parameters) for _ in range(2))
        stack.callback(kill, living)
        (lost,), (kept,) = ids_of(killed), ids_of(living)
        kill(killed)
        record = stack.enter_context(record_of(tmp_path))
        record.begin([Run(parameters, [])])
        failed = record.find(lost)
        assert failed.status is Status.FAILED
        assert isinstance(failed.error, RunFailedError)
        assert "ended before it was done" in str(failed.error)
        assert record.find(kept).status is Status.QUEUED


def test_what_a_killed_server_left_is_taken_over_by_the_next_and_by_no_client(
    tmp_path: Path, parameters: Parameters
) -> None:
    with ExitStack() as stack:
        killed, living = (other_process(tmp_path, "serve", parameters, 2) for _ in range(2))
        stack.callback(kill, living)
        left, kept = ids_of(killed), ids_of(living)
        kill(killed)
        client = stack.enter_context(record_of(tmp_path))
        client.begin([Run(parameters, [])])
        assert {client.find(each).status for each in left} == {Status.QUEUED}
        server = stack.enter_context(record_of(tmp_path, "serve"))
        claimed = server.claim()
        assert [run.id for run in claimed] == left
        assert [run.parameters for run in claimed] == [parameters] * 2
        assert server.claim() == []
        third = stack.enter_context(record_of(tmp_path, "serve"))
        assert third.claim() == []
        assert {client.find(each).status for each in kept} == {Status.QUEUED}


def test_a_server_that_ends_in_order_leaves_its_runs_to_the_next_too(
    tmp_path: Path, parameters: Parameters
) -> None:
    run = Run(parameters, [])
    with record_of(tmp_path, "serve") as record:
        record.begin([run])
        record.leave([run])
    with record_of(tmp_path, "serve") as record:
        assert [each.id for each in record.claim()] == [run.id]
    assert [path.name for path in (tmp_path / "data").glob("*.lock")] == ["runs.lock"]


def test_a_picture_that_was_written_before_its_end_was_recorded_is_found(
    tmp_path: Path, parameters: Parameters
) -> None:
    jpeg = (Path(__file__).parents[1] / "docs" / "mini.jpg").read_bytes()
    store = Store(tmp_path / "pictures")
    with ExitStack() as stack:
        killed = other_process(tmp_path, "serve", parameters, 2)
        written, foreign = ids_of(killed)
        kill(killed)
        path = store.save(_picture(parameters), written, datetime.now(UTC))
        store.save(GeneratedImage(jpeg, parameters), foreign, datetime.now(UTC))
        record = stack.enter_context(record_of(tmp_path, "serve"))
        # A file that carries no parameters, or others, is not this run's picture.
        assert [run.id for run in record.claim()] == [foreign]
        found = record.find(written)
    assert (found.status, found.path, found.size) == (
        Status.SUCCEEDED,
        path,
        path.stat().st_size,
    )
    assert read_parameters(found.path) == parameters


def test_a_run_under_which_the_server_ends_again_and_again_fails(
    tmp_path: Path, parameters: Parameters
) -> None:
    with record_of(tmp_path, "serve") as first:
        run = Run(parameters, [])
        first.begin([run])
    for _ in range(MAX_RESUMES):
        with record_of(tmp_path, "serve") as record:
            assert [each.id for each in record.claim()] == [run.id]
    with record_of(tmp_path, "serve") as record:
        assert record.claim() == []
        assert "The server ended 3 times" in str(record.find(run.id).error)


def test_several_processes_record_at_once_and_no_run_is_lost(
    tmp_path: Path, parameters: Parameters
) -> None:
    with ExitStack() as stack:
        processes = [other_process(tmp_path, "stdio", parameters, 50) for _ in range(4)]
        for process in processes:
            stack.callback(kill, process)
        ids = [each for process in processes for each in ids_of(process)]
        record = stack.enter_context(record_of(tmp_path))
        assert {run.id for run in record.latest(1000)} == {*ids}
        assert len(ids) == 200


def test_retention_by_count_age_and_bytes_takes_the_oldest_and_a_persons_pictures_stay(
    tmp_path: Path, parameters: Parameters
) -> None:
    store = Store(tmp_path / "pictures")

    def made(record: Record, count: int, size: int = 1000) -> list[Run]:
        runs = [Run(parameters, []) for _ in range(count)]
        record.begin(runs)
        record.end([ended(run, b"x" * size, store) for run in runs])
        return runs

    with record_of(tmp_path, "serve") as server, record_of(tmp_path) as client:
        persons = made(client, 1)
        served = made(server, 4)
        waiting = Run(parameters, [])
        server.begin([waiting])
        assert server.prune(4) == 1
        assert client.find(persons[0].id) is None
        assert persons[0].path.exists()
        assert server.prune(3) == 1
        assert [run.path.exists() for run in served] == [False, True, True, True]
        assert server.prune(100, size=2500) == 1
        assert [run.path.exists() for run in served] == [False, False, True, True]
        assert server.prune(100, days=1) == 0
        assert server.prune(100, days=1e-9) == 2
        assert [run.id for run in server.latest(10)] == [waiting.id]
        assert sum(row["runs"] for row in server.usage()) == 5


def test_of_two_processes_that_are_asked_with_one_key_the_first_has_it(
    tmp_path: Path, parameters: Parameters
) -> None:
    origin = Origin("me", key=Key("once", "what was asked"))
    with record_of(tmp_path, "serve") as one, record_of(tmp_path, "serve") as other:
        first, second = (Run(parameters, [], origin) for _ in range(2))
        one.begin([first])
        with pytest.raises(KeyInUseError):
            other.begin([second])
        assert [run.id for run in other.latest(10)] == [first.id]
        assert other.answered("me", "once") == ("what was asked", [first.id])
        assert other.answered("you", "once") is None
        # Where its run is forgotten, the key is too.
        first.settle(Status.CANCELED, RunCanceledError("why"))
        one.end([first])
        one.forget(first)
        assert other.answered("me", "once") is None
        other.begin([second])
        assert one.answered("me", "once") == ("what was asked", [second.id])


def test_a_file_of_the_version_before_is_gone_on_with(
    tmp_path: Path, parameters: Parameters
) -> None:
    run = Run(parameters, [], Origin(key=Key("once", "what was asked")))
    with record_of(tmp_path) as record:
        record.begin([Run(parameters, [])])
    with closing(sqlite3.connect(tmp_path / "data" / "runs.sqlite3")) as file:
        file.executescript(
            "DROP TABLE answers; PRAGMA user_version = 1;"
            "CREATE TABLE answers (owner TEXT, key TEXT, answered INTEGER);"
        )
    with record_of(tmp_path) as record:
        record.begin([run])
        assert len(record.latest(10)) == 2
        assert record.answered(None, "once") == ("what was asked", [run.id])


def test_usage_is_summed_by_owner_and_outlives_the_runs(
    tmp_path: Path, parameters: Parameters
) -> None:
    store = Store(tmp_path / "pictures")
    with record_of(tmp_path, "serve") as record:
        runs = [Run(parameters, [], Origin(owner, price=0.003)) for owner in "aab"]
        record.begin(runs)
        runs[2].settle(Status.FAILED, RunFailedError("why"))
        record.end([ended(runs[0], b"x", store), ended(runs[1], b"x", store), runs[2]])
        # What has ended does not end again.
        record.end(runs)
        record.forget(runs[0])
        (used,) = record.usage("a")
        (failed,) = record.usage("b", since=f"{datetime.now(UTC):%Y-%m-%d}")
        assert record.usage("a", since="2999-01-01") == []
    assert (used["runs"], used["pixels"], round(used["cost"], 6)) == (2, 2 * 512 * 512, 0.006)
    assert (failed["status"], failed["runs"], failed["cost"]) == ("failed", 1, 0)


@pytest.mark.parametrize("way", ["a file in the way", "no database", "newer", "in use"])
async def test_a_record_that_cannot_be_used_is_said_with_the_cure_and_nothing_is_begun(
    tmp_path: Path, parameters: Parameters, way: str
) -> None:
    data = tmp_path / "data"
    if way == "a file in the way":
        data.write_text("")
    else:
        data.mkdir()
        if way == "no database":
            (data / "runs.sqlite3").write_text("x" * 5000)
        if way == "newer":
            with closing(sqlite3.connect(data / "runs.sqlite3")) as connection:
                connection.execute("PRAGMA user_version = 99")
        if way == "in use":
            (data / "runs.sqlite3").mkdir()
    with anyio.fail_after(PATIENCE), record_of(tmp_path) as record:
        async with mini_runner(tmp_path / "pictures", record=record) as runner:
            with pytest.raises(StorageError, match=r"--data-dir|Move the file away"):
                await runner.submit(parameters)
            assert runner.unended() == []


def test_nobody_else_on_the_machine_can_read_the_record(
    tmp_path: Path, parameters: Parameters
) -> None:
    with record_of(tmp_path) as record:
        record.begin([Run(parameters, [])])
        modes = {oct(path.stat().st_mode & 0o077) for path in (tmp_path / "data").glob("runs*")}
    assert modes == {"0o0"}


async def test_the_server_over_stdio_keeps_a_record(tmp_path: Path) -> None:
    wish = {"prompt": "the sea", "width": 512, "height": 512}
    with anyio.fail_after(PATIENCE):
        async with Client(
            stdio_server("--output-dir", f"{tmp_path}/pictures", "--data-dir", f"{tmp_path}/data")
        ) as client:
            result = await client.call_tool("generate_image", wish)
    with record_of(tmp_path) as record:
        (run,) = record.latest(10)
    assert str(run.path) == result.content[1].text.splitlines()[0]
    assert os.listdir(tmp_path / "pictures") == [run.path.name]


def _picture(parameters: Parameters) -> GeneratedImage:
    from PIL import Image

    from sdxl_lightning_mcp.image import encode

    return encode(Image.new("RGB", (64, 64)), parameters, datetime.now(UTC))
