"""Stopping trainings with a command, and waiting for a cluster in vain; without Ray."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from dynat_ray import interrupt
from dynat_ray.distributed import cluster, graceful_stop, head_watch, place_watch, stop_flag
from dynat_ray.distributed.graceful_stop import until_stopped
from dynat_ray.distributed.place_watch import PlaceWatch
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.errors import Stopped, UserError


@pytest.fixture(autouse=True)
def flags(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Stands for the store of a cluster's head."""
    flags: dict[str, str] = {}
    monkeypatch.setattr(
        stop_flag, "set_flag", lambda name, value="set": flags.update({name: value})
    )
    monkeypatch.setattr(stop_flag, "read_flag", lambda name: flags.get(name, ""))
    monkeypatch.setattr(stop_flag, "remove_flag", lambda name: flags.pop(name, None))
    monkeypatch.setattr(
        stop_flag, "flags_below", lambda name: [each for each in flags if each.startswith(name)]
    )
    return flags


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[interrupt._Command]:
    """This process as a command; a signal has come when its `number` is set."""
    command = interrupt._Command(listening=True, running=True)
    monkeypatch.setattr(interrupt, "_command", command)
    monkeypatch.setattr(interrupt, "take_signals_back", lambda: None)
    return command


def train(flag: StopFlag, until_heard: threading.Event, *, saves: bool = True) -> None:
    flag.begin()
    until_heard.set()
    if saves:
        while not flag.is_set():
            time.sleep(0.01)
        flag.end(saved=True)
    time.sleep(60)


def test_without_a_signal_the_answer_is_the_works(command: interrupt._Command) -> None:
    flag = StopFlag()
    assert until_stopped(lambda: 42, flag) == 42
    with pytest.raises(ZeroDivisionError):
        until_stopped(lambda: 1 // 0, flag)


def test_all_trainings_save_and_none_is_waited_for_after_that(
    command: interrupt._Command, flags: dict[str, str]
) -> None:
    flag, heard = StopFlag(), [threading.Event(), threading.Event()]

    def work() -> None:
        for event in heard:
            threading.Thread(target=train, args=(flag.of_training(), event), daemon=True).start()
        for event in heard:
            event.wait()
        command.number = 15
        time.sleep(60)

    with pytest.raises(Stopped, match="a checkpoint is written"):
        until_stopped(work, flag)
    assert flags == {}


def test_a_training_that_does_not_hear_is_left(
    command: interrupt._Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graceful_stop, "_SECONDS_TO_HEAR", 0.2)
    flag, heard = StopFlag(), threading.Event()
    own = flag.of_training()

    def work() -> None:
        threading.Thread(
            target=train, args=(own, heard), kwargs={"saves": False}, daemon=True
        ).start()
        heard.wait()
        command.number = 2
        time.sleep(60)

    with pytest.raises(Stopped) as stopped:
        until_stopped(work, flag)
    assert str(stopped.value) == ""


def test_before_a_training_begins_nothing_is_waited_for(command: interrupt._Command) -> None:
    command.number = 2
    with pytest.raises(Stopped) as stopped:
        until_stopped(lambda: time.sleep(60), StopFlag())
    assert str(stopped.value) == ""


def test_workers_without_a_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fits, now = [1], [0.0]
    monkeypatch.setattr(place_watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(place_watch, "side_by_side", lambda *_: fits[0])
    monkeypatch.setattr(place_watch, "cluster_limit", lambda kind: 2.0)
    flag = StopFlag("command", "training")
    watch = PlaceWatch(flag, 4, 1, gpu=False)
    flag.begin()
    now[0] = 1000.0
    watch.poll()
    assert capsys.readouterr().err == ""
    # Its workers have died, and others use the cluster.
    flag.end(saved=False)
    for now[0] in (1010.0, 1100.0, 1110.0):
        watch.poll()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "waiting for 4 workers to start: others use the cluster's CPUs, or its machines are slow"
    )
    now[0] = 9000.0
    watch.poll()
    assert watch.hopeless == ""
    fits[0] = 0
    now[0] = 9100.0 + place_watch._SECONDS_WITHOUT_PLACE
    watch.poll()
    assert "4 workers have found no place for 15 minutes: the cluster has 2 CPUs" in watch.hopeless
    with pytest.raises(UserError, match="found no place"):
        until_stopped(lambda: time.sleep(60), flag, lambda: watch.hopeless)
    flag.begin()
    watch.poll()
    assert watch.hopeless == ""


def test_a_head_that_has_gone_ends_the_command(
    command: interrupt._Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    def end_with(error: str) -> None:
        raise Ended(error)

    monkeypatch.setattr(head_watch.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(interrupt, "end_with", end_with)
    monkeypatch.setattr(head_watch, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(head_watch, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        assert head_watch._answers(address)
    with pytest.raises(Ended, match=rf"the head of the Ray cluster \({address}\) has gone"):
        head_watch._watch_head(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"]
)
def test_nobody_at_the_address(address: str) -> None:
    with pytest.raises(UserError, match="nobody answers at RAY_ADDRESS="):
        cluster._require_listener(address)


@pytest.mark.parametrize("address", ["auto", "local", "http://127.0.0.1:1/", "head"])
def test_what_is_no_address_of_a_head_is_rays_to_judge(address: str) -> None:
    cluster._require_listener(address)
