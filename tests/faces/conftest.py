"""One runner for all tests of a file, with a record of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
from support import mini_runner

from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.record import Record
from sdxl_lightning_mcp.runners.local import LocalRunner
from sdxl_lightning_mcp.store import Store


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    folder = tmp_path_factory.mktemp("record")
    with closing(Record(Database(folder / "data"), Store(folder / "pictures"), "stdio")) as record:
        yield record


@pytest.fixture(scope="module")
async def runner(
    record: Record, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalRunner]:
    async with mini_runner(tmp_path_factory.mktemp("pictures"), record=record) as opened:
        yield opened
