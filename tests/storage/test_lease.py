"""One owner at a time: on a disk or shared folder, and in an object store."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dynat_ray.errors import UserError
from dynat_ray.storage import claims, lease
from dynat_ray.storage.claims import Claim
from dynat_ray.storage.mirror import set_mirror_address
from tests.loopback_s3 import names
from tests.processes import run_side_by_side
from tests.programs import said, started

Take = Callable[..., AbstractContextManager[None]]
OWNER = """
import sys, time
from pathlib import Path
from dynat_ray import interrupt
from dynat_ray.storage.lease import lease

interrupt.run()
with lease(Path(sys.argv[1]), "run", wait=True), interrupt.graceful():
    print("ready", flush=True)
    while not interrupt.received():
        time.sleep(0.01)
    time.sleep(1)
    print("ended", flush=True)
"""


@pytest.fixture(params=["folder", "store"])
def take(request: pytest.FixtureRequest, tmp_path: Path) -> Take:
    """Takes a place, the same each time."""
    folder = tmp_path / "runs" / "one"
    if request.param == "store":
        parent = request.getfixturevalue("bucket") + "/runs"
        folder = tmp_path / "one"
        set_mirror_address(tmp_path, parent)
    return lambda wait=False: lease.lease(folder, "run", wait=wait)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners give signs of life all the time, and are not long waited for."""
    monkeypatch.setattr(lease, "_SECONDS_BETWEEN_BEATS", 0.05)
    monkeypatch.setattr(lease, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(lease, "_SILENCE", 1.0)
    monkeypatch.setattr(lease, "_MOMENT", 0.2)


@pytest.fixture
def nobody_lives(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no owner gives signs of life, it may be waited for even less."""
    monkeypatch.setattr(lease, "_SILENCE", 0.3)
    monkeypatch.setattr(lease, "_MOMENT", 0.1)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, this process takes what it sees for another machine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "this_place", lambda: "elsewhere")
        yield


def own(path: Path, **changes: Any) -> Path:
    """Puts somebody's claim beside `path`."""
    path.parent.mkdir(exist_ok=True)
    file = path.parent / f".{path.name}.lease-0123456789abcdef"
    file.write_bytes(Claim(owner=True, **changes).encode())
    return file


def test_another_is_refused_until_the_end(take: Take) -> None:
    with take():
        for wait in (False, True):
            with (
                pytest.raises(
                    UserError, match=rf"in use by process {os.getpid()} on .* \(since 20"
                ),
                take(wait=wait),
            ):
                raise AssertionError
    with take():
        pass


def test_nothing_is_left(take: Take, s3: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with take():
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_left_in_a_store(bucket: str, s3: str) -> None:
    with lease.store_lease(bucket, "one", "run", wait=False):
        (found,) = names(s3, bucket)
        assert found.startswith(".one.lease-")
    assert names(s3, bucket) == []


def test_the_dead_of_this_machine_are_replaced_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one"
    program = started(OWNER, str(path))
    with pytest.raises(UserError, match=f"in use by process {program.pid} on"), hold(path):
        raise AssertionError
    program.kill()
    # It is not even waited for.
    time.sleep(0.2)
    with hold(path):
        pass
    program.communicate()
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_was_given_out_again_is_not_the_owner(tmp_path: Path) -> None:
    own(tmp_path / "one", begun="1")
    with hold(tmp_path / "one"):
        pass


def test_an_owner_that_was_told_to_end_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one"
    program = started(OWNER, str(path))
    program.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    with hold(path, wait=True):
        assert said(program) == (["ended"], [])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is held by process {program.pid} on " in line
    assert line.startswith(f"waiting: the run {path} ")
    assert line.endswith(", which was told to end")


def test_the_living_of_another_machine_are_known_by_their_signs_of_life(
    quick: None, take: Take, capsys: pytest.CaptureFixture[str]
) -> None:
    with take(), elsewhere():
        for wait in (False, True):
            with pytest.raises(UserError, match="in use by"), take(wait=wait):
                raise AssertionError
    assert "which may be dead: its place is taken after 1 s" in capsys.readouterr().err


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Event]]:
    """What owners said that lost their place, and whether one did, once the event is set.

    The first owner says nothing before it: it is a machine that was suspended.
    """
    errors: list[str] = []
    awake = threading.Event()
    go_on = lease._Beats._go_on
    owners: list[Any] = []

    def go_on_later(self: Any) -> None:
        owners.append(self)
        if self is owners[0]:
            awake.wait()
        go_on(self)

    monkeypatch.setattr(lease, "end_with", errors.append)
    monkeypatch.setattr(lease._Beats, "_go_on", go_on_later)
    yield errors, awake
    awake.set()


def test_who_is_silent_loses_its_place(
    quick: None, take: Take, ended: tuple[list[str], threading.Event]
) -> None:
    errors, awake = ended
    with take(), elsewhere(), take(wait=True):
        awake.set()
        wait_until(lambda: errors)
    (error,) = errors
    assert "one was taken over by another process" in error


def test_who_writes_its_removed_claim_anew_is_not_the_owner_again(
    quick: None,
    bucket: str,
    s3: str,
    ended: tuple[list[str], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store may write, under a name, what was removed just after it was looked for."""
    errors, awake = ended
    monkeypatch.setattr(claims.StoreClaims, "rewrite", claims.StoreClaims.write)

    def hold(*, wait: bool) -> AbstractContextManager[None]:
        return lease.store_lease(bucket, "one", "run", wait=wait)

    with hold(wait=False), elsewhere(), hold(wait=True):
        (successor,) = names(s3, bucket)
        awake.set()
        wait_until(lambda: errors)
        wait_until(lambda: names(s3, bucket) == [successor])
    assert len(errors) == 1
    assert names(s3, bucket) == []


def test_of_two_that_come_at_once_to_a_store_one_is_inside(quick: None, take: Take) -> None:
    inside, together = [], threading.Barrier(2)
    most = 0

    def contend() -> None:
        nonlocal most
        together.wait()
        with suppress(UserError), take(wait=True):
            inside.append(1)
            most = max(most, len(inside))
            time.sleep(0.05)
            inside.pop()

    for _ in range(5):
        threads = [threading.Thread(target=contend) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("nothing came")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff", json.dumps({"owner": 1}).encode()]
)
def test_a_claim_that_says_nothing_is_waited_out(
    nobody_lives: None, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    own(tmp_path / "one").write_bytes(content)
    with hold(tmp_path / "one", wait=True):
        pass
    assert "held by an unknown process on an unknown host" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_no_claim_and_does_not_stop_anybody_for_ever(
    nobody_lives: None, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / ".one.lease-0123456789abcdef")
    with hold(tmp_path / "one", wait=True):
        pass


def test_long_names(tmp_path: Path) -> None:
    with hold(tmp_path / ("ü" * 120)), hold(tmp_path / ("ü" * 119)):
        pass


def test_a_place_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"the run's folder .*/file/deep/one can't be written"),
        hold(tmp_path / "file" / "deep" / "one"),
    ):
        raise AssertionError


def hold(path: Path, *, wait: bool = False) -> AbstractContextManager[None]:
    return lease.lease(path, "run", wait=wait)


def _contend(rank: int, folder: Path, rounds: int) -> None:
    """Holds the same place, again and again, and writes down when."""
    lease._SECONDS_BETWEEN_LOOKS = 0.02
    for each in range(rounds):
        (folder / f"begun-{rank}-{each}").touch()
        while len(list(folder.glob(f"begun-*-{each}"))) < 3:
            time.sleep(0.001)
        try:
            with lease.lease(folder / "one", "run", wait=True):
                inside = folder / "inside"
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                time.sleep(random.uniform(0, 0.05))
                inside.unlink()
            (folder / f"held-{rank}-{each}").touch()
        except UserError:
            (folder / f"refused-{rank}-{each}").touch()


def test_of_several_that_come_at_once_one_is_inside(tmp_path: Path) -> None:
    run_side_by_side(_contend, tmp_path, 4, processes=3)
    for each in range(4):
        held = len(list(tmp_path.glob(f"held-*-{each}")))
        assert held >= 1
        assert held + len(list(tmp_path.glob(f"refused-*-{each}"))) == 3
