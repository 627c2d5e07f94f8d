"""Commands killed at random moments and started again end as if nothing had happened.

`make faults MOMENTS=100` tries a hundred; MOMENTS_SEED chooses others.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults.commands import MOMENTS, SIGNALS, VICTIMS, Place
from tests.faults.jobs import tell, wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Place(tmp_path_factory.mktemp("kills")) as place:
        place.whole("train")
        yield place


@pytest.mark.parametrize("number", range(MOMENTS))
def test_killed_and_started_again(place: Place, number: int) -> None:
    name = list(VICTIMS)[number % len(VICTIMS)]
    # Twenty-one moments have each signal for each command.
    what = list(SIGNALS)[sum(divmod(number, len(VICTIMS))) % len(SIGNALS)]
    out = place.folder / f"killed-{number}"
    errors = place.stopped(name, out, what, number)
    wait_until(lambda: not place.processes(), "the end of all its processes")
    place.finish(name, out, errors)
    assert VICTIMS[name].outcome(out / "it") == place.outcomes[name]
    wait_until(lambda: not place.processes(), "the end of all its processes")
    assert place.litter(out) == []
    shutil.rmtree(out)


def test_started_twice_at_the_same_moment(place: Place) -> None:
    """One runs, the other is refused or waits; nothing is lost or written twice."""
    for number in range(max(1, MOMENTS // 3)):
        out = place.folder / f"twice-{number}"
        out.mkdir()
        both = [place.start("train", out, resume=True) for _ in range(2)]
        said = [process.communicate() for process in both]
        codes = sorted(process.returncode for process in both)
        tell("two at once: exit", *codes)
        assert codes in ([0, 0], [0, 2]), said
        for process, (_, errors) in zip(both, said, strict=True):
            if process.returncode == 2:
                (line,) = errors.splitlines()
                assert "is in use by process" in line
        assert VICTIMS["train"].outcome(out / "it") == place.outcomes["train"]
        assert place.litter(out) == []
