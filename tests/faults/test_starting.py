"""A command that is stopped while it joins a cluster, or gathers workers, leaves nothing there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.cluster import Head
from tests.faults.commands import MOMENTS, SIGNALS, VICTIMS, Place
from tests.faults.jobs import wait_until

pytestmark = pytest.mark.faults

# They take both places of the cluster, so that the next one waits for what was not given back.
COMMANDS = ("train-by-two", "evaluate-by-two")
# What works for a command on the cluster, as Ray names its processes.
_WORKING = ("TrainController", "RayTrainWorker", "_ShardWorker")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head(cpus=2) as head:
        yield head


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, head: Head) -> Iterator[Place]:
    environment = {**head.environment, "RAY_ADDRESS": f"127.0.0.1:{head.port}"}
    with Place(tmp_path_factory.mktemp("starting"), environment) as place:
        place.whole("train")
        yield place


@pytest.mark.parametrize("number", range(max(6, MOMENTS // 2)))
def test_stopped_on_a_cluster_it_gives_its_places_back(
    place: Place, head: Head, number: int
) -> None:
    name = COMMANDS[number % 2]
    what = list(SIGNALS)[number // 2 % len(SIGNALS)]
    out = place.folder / f"stopped-{number}"
    errors = place.stopped(name, out, what, number)
    wait_until(lambda: not any(map(head.named, _WORKING)), "the end of what worked for it")
    place.finish(name, out, errors)
    assert VICTIMS[name].outcome(out / "it") == place.outcomes[name]
