"""Commands killed at random moments and started again end as if nothing had happened.

`make faults MOMENTS=100` tries a hundred; MOMENTS_SEED chooses others.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import MOMENTS, SEED, SIGNALS, VICTIMS, Place
from tests.faults.jobs import tell, wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    # Ray's socket paths must stay short.
    temporary = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    place = Place(tmp_path_factory.mktemp("kills"), temporary)
    place.whole("train")
    yield place
    for name, what, moment, seconds in place.rows:
        whole = place.seconds[name]
        tell(f"{name:9} {what:8} after {moment:5.1f} of {whole:5.1f} s, ended in {seconds:4.1f} s")
    for process in place.processes():
        process.kill()
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.parametrize("number", range(MOMENTS))
def test_killed_and_started_again(place: Place, number: int) -> None:
    name = list(VICTIMS)[number % len(VICTIMS)]
    # Twenty-one moments have each signal for each command.
    what = list(SIGNALS)[sum(divmod(number, len(VICTIMS))) % len(SIGNALS)]
    moment = random.Random(f"{SEED} {number}").uniform(0, place.whole(name))
    out = place.folder / f"killed-{number}"
    out.mkdir()
    process = place.start(name, out, resume=False)
    try:
        output, errors = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        asked = time.monotonic()
        process.send_signal(what)
        output, errors = process.communicate()
        place.rows.append((name, what.name, moment, time.monotonic() - asked))
    # A command begins to listen when Python has read it, and may end by itself before the signal.
    assert process.returncode in (0, SIGNALS[what], -what), output + errors
    if process.returncode > 0:
        assert errors.splitlines()[-1].startswith("stopped"), errors
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
