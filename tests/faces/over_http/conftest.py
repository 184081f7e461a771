"""One server for all tests that need none of their own."""

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from http_server import Served, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    # Before any test's own home is set: the model and the place are named here.
    with serving(folder, "--model", "mini", price=0.003, max_queue=40) as server:
        yield server


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx2.AsyncClient]:
    async with served.client() as client:
        yield client
