"""The one Ray that tests of this room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from dynat_ray.distributed.cluster import connect


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    """A local Ray, started once: starting and ending it takes seconds.

    It ends with the room, since its processes never rest, though nobody asks them anything.
    """
    connect()
    yield
    ray.shutdown()
