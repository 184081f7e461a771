"""The runs a client may look at: those under way here, and those on record."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from sdxl_lightning_mcp.errors import InvalidRequestError, Problem, RunNotFoundError, StorageError
from sdxl_lightning_mcp.faces.mcp.result import Context
from sdxl_lightning_mcp.ids import check_region, read_run_id
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.run import Run, Status
from sdxl_lightning_mcp.runners.base import Runner

# A UUID with a region; or one in braces, or as a URN.
LONGEST_ID = 57

# Whose runs the client of a request sees; None sees all, as the person at this machine does.
OwnerOf = Callable[[Context], str | None]


def everyone(_: Context) -> None:
    """There is one person, whose runs all are."""


@dataclass(frozen=True)
class Runs:
    """Runs by id and the newest of them, as far as a request's client may see them.

    Without a `record` only those that are under way are known.
    """

    runner: Runner
    record: Record | None
    owner_of: OwnerOf = everyone
    region: str | None = None

    async def find(self, context: Context, run_id: object) -> Run:
        """The run of this id.

        Raises:
            InvalidRequestError: It is no id of a run.
            RunNotFoundError: There is none that this client may see here; RunElsewhereError where
                another region has it.
            StorageError: The record cannot be read.
        """
        wanted, owner = _read_id(run_id), self.owner_of(context)
        found = self.runner.find(wanted)
        if found is not None and owner in (None, found.origin.owner):
            return found
        if self.record is not None:
            recorded = await anyio.to_thread.run_sync(self.record.find, wanted, owner)
            if recorded is not None:
                return recorded
        check_region(wanted, self.region)
        raise RunNotFoundError(
            f"There is no run {wanted}. Ids are told by generate_image, and the newest stand in "
            "the resource sdxl-lightning://runs."
        )

    async def latest(self, context: Context, limit: int) -> list[Run]:
        """The newest runs, the newest first.

        Raises:
            StorageError: The record cannot be read.
        """
        owner = self.owner_of(context)
        here = {run.id: run for run in self.runner.unended() if owner in (None, run.origin.owner)}
        if self.record is None:
            return [*here.values()][: -limit - 1 : -1]
        record = self.record
        recorded = await anyio.to_thread.run_sync(lambda: record.latest(limit, owner=owner))
        return [here.get(run.id, run) for run in recorded]


def _read_id(value: object) -> str:
    """The id of a run in the one way in which it is written."""
    try:
        if isinstance(value, str) and len(value) <= LONGEST_ID:
            return read_run_id(value)
    except ValueError:
        pass
    shown = f"a text of {len(value):,} characters" if isinstance(value, str) else repr(value)[:60]
    if isinstance(value, str) and len(value) <= 60:
        shown = repr(value)
    raise InvalidRequestError(Problem("id", shown, "the id of a run, as generate_image told it"))


async def jpeg_of(run: Run) -> bytes:
    """The full picture of a run that has succeeded.

    Raises:
        StorageError: Its file is gone.
    """
    assert run.status is Status.SUCCEEDED
    assert run.path is not None
    if run.image is not None:
        return run.image.jpeg
    try:
        return await anyio.Path(run.path).read_bytes()
    except OSError as error:
        raise StorageError(
            f"The picture of run {run.id} is not at {run.path} any more "
            f"({error.strerror or error}). generate_image with its parameters draws it again: "
            f"sdxl-lightning://runs/{run.id}"
        ) from error
