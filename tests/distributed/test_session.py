"""A local Ray: nobody else reaches it."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
import ray

from dynat_ray.distributed.session import connect


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()


def test_a_local_ray_listens_on_loopback_only() -> None:
    ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())
    own = psutil.Process()
    addresses = [
        (process.name(), connection.laddr.ip)
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(addresses) > 5
    loopback = ("127.", "::1", "::ffff:127.")
    assert [each for each in addresses if not each[1].startswith(loopback)] == []
