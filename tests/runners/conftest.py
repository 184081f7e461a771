"""What the tests of runners share."""

from collections.abc import Iterator

import pytest
from ray_cluster import Cluster, joined_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Takes ten seconds and a gigabyte: one for all tests that want it."""
    with joined_cluster() as cluster:
        yield cluster
