"""Files of a run are there complete, whatever happens while they are written, and nowhere else."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dynat_ray import atomic_files
from dynat_ray.atomic_files import (
    append_line,
    atomic_folder,
    atomic_write,
    atomic_write_text,
    open_to_append,
    publish_folder,
)
from dynat_ray.storage.metrics import read_metrics, write_metrics


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    file = tmp_path / "victim"
    file.write_text("untouched\n")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["a.json", "a.json.tmp", ".a.json.part", "a.json.part"])
def test_links_that_lie_there_lead_nowhere(folder: Path, victim: Path, name: str) -> None:
    (folder / name).symlink_to(victim)
    atomic_write_text(folder / "a.json", "new")
    assert (folder / "a.json").read_text() == "new"
    assert not (folder / "a.json").is_symlink()
    assert victim.read_text() == "untouched\n"


def test_a_link_to_what_is_not_there_makes_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "a.json").symlink_to(tmp_path / "made")
    atomic_write_text(folder / "a.json", "new")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_metrics_are_never_added_to_a_file_elsewhere(
    folder: Path, victim: Path, make: Callable[[Path, Path], None]
) -> None:
    victim.write_text('{"epoch": 0}\n')
    make(folder / "metrics.jsonl", victim)
    write_metrics(folder / "metrics.jsonl", {"epoch": 1})
    assert victim.read_text() == '{"epoch": 0}\n'
    assert [line["epoch"] for line in read_metrics(folder / "metrics.jsonl")] == [0, 1]


def test_a_pipe_in_the_place_of_metrics_makes_nobody_wait(folder: Path) -> None:
    os.mkfifo(folder / "notes.log")
    assert not append_line(folder / "notes.log", b"note")
    with pytest.raises(OSError, match="link to another file, or no file"):
        open_to_append(folder / "notes.log")


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices are made by root alone")
    with pytest.raises(OSError, match="device"):
        atomic_write_text(device, "x")
    assert device.is_char_device()


def test_what_somebody_puts_in_the_place_of_an_unfinished_file_is_not_taken(
    folder: Path, victim: Path
) -> None:
    replaced = pytest.raises(OSError, match="replaced while it was written")
    with replaced, atomic_write(folder / "a") as partial:
        partial.unlink()
        partial.symlink_to(victim)
    assert list(folder.iterdir()) == []
    assert victim.read_text() == "untouched\n"


def test_two_who_write_the_same_file_do_not_disturb_one_another(folder: Path) -> None:
    with atomic_write(folder / "a") as first, atomic_write(folder / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (folder / "a").read_text() == "first"
    assert [file.name for file in folder.iterdir()] == ["a"]


def test_permissions_are_those_of_any_new_file(folder: Path) -> None:
    (folder / "plain").touch()
    atomic_write_text(folder / "a", "x")
    assert (folder / "a").stat().st_mode == (folder / "plain").stat().st_mode


def test_what_a_kill_left_goes_after_a_while(folder: Path) -> None:
    file, young = atomic_files.unused_name(folder), atomic_files.unused_name(folder)
    inner = atomic_files.unused_name(folder)
    inner.mkdir()
    for each in (file, young, inner / "x"):
        each.touch()
    for each in (file, inner):
        os.utime(each, (0, 0))
    atomic_write_text(folder / "a", "x")
    assert {each.name for each in folder.iterdir()} == {"a", young.name}


def test_many_who_add_lines_lose_none(folder: Path) -> None:
    file, start = folder / "notes.log", threading.Barrier(8)

    def add(number: int) -> None:
        start.wait()
        assert append_line(file, str(number).encode())

    writers = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(file.read_text().split()) == [str(number) for number in range(8)]


class TestFolders:
    @pytest.fixture(params=["swapped", "file by file"])
    def place(
        self, request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        if request.param == "file by file":
            monkeypatch.setattr(atomic_files, "_exchange", lambda *_: False)
        return folder / "model"

    def write(self, place: Path, text: str) -> None:
        with atomic_folder(place) as new:
            for name in ("config", "weights"):
                (new / name).write_text(text)

    def test_there_is_no_moment_without_one(self, place: Path) -> None:
        self.write(place, "0")
        ended, missing = threading.Event(), []

        def look() -> None:
            while not ended.is_set():
                for name in ("config", "weights"):
                    try:
                        (place / name).read_text()
                    except FileNotFoundError as error:
                        missing.append(error)

        watcher = threading.Thread(target=look)
        watcher.start()
        for number in range(1, 50):
            self.write(place, str(number))
        ended.set()
        watcher.join()
        assert not missing
        assert {file.read_text() for file in place.iterdir()} == {"49"}
        assert [each.name for each in place.parent.iterdir()] == ["model"]

    def test_other_files_of_the_older_one_go(self, place: Path) -> None:
        place.mkdir()
        (place / "old").touch()
        self.write(place, "1")
        assert sorted(file.name for file in place.iterdir()) == ["config", "weights"]

    def test_a_link_is_replaced_and_what_it_leads_to_stays(
        self, place: Path, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "config").write_text("untouched")
        place.symlink_to(elsewhere)
        self.write(place, "1")
        assert not place.is_symlink()
        assert (elsewhere / "config").read_text() == "untouched"
        assert [file.name for file in elsewhere.iterdir()] == ["config"]
        assert [each.name for each in place.parent.iterdir()] == ["model"]

    def test_a_failure_leaves_the_older_one(self, place: Path) -> None:
        self.write(place, "1")
        with pytest.raises(RuntimeError), atomic_folder(place) as new:
            (new / "config").write_text("2")
            raise RuntimeError
        assert {file.read_text() for file in place.iterdir()} == {"1"}
        assert [each.name for each in place.parent.iterdir()] == ["model"]


def test_a_folder_made_elsewhere_can_be_published(folder: Path) -> None:
    new = folder / "made"
    new.mkdir()
    (new / "state").write_text("x")
    publish_folder(new, folder / "epoch_0000")
    assert (folder / "epoch_0000" / "state").read_text() == "x"
    shutil.rmtree(folder / "epoch_0000")
    assert list(folder.iterdir()) == []


class TestMetrics:
    def test_the_file_grows_and_is_not_written_anew(self, folder: Path) -> None:
        file = folder / "metrics.jsonl"
        write_metrics(file, {"epoch": 0})
        before = file.stat().st_ino
        write_metrics(file, {"epoch": 1, "loss": float("nan")})
        assert file.stat().st_ino == before
        assert [line["epoch"] for line in read_metrics(file)] == [0, 1]

    @pytest.mark.parametrize("kept", range(0, 34, 3))
    def test_a_line_that_was_cut_is_left_out_and_written_again(
        self, folder: Path, kept: int
    ) -> None:
        file = folder / "metrics.jsonl"
        whole = b'{"epoch": 0, "loss": 1.5}\n'
        file.write_bytes(whole + b'{"epoch": 1, "loss": 0.25555555555}\n'[:kept])
        assert [line["epoch"] for line in read_metrics(file)] == [0]
        write_metrics(file, {"epoch": 1, "loss": 2.0})
        assert file.read_bytes() == whole + b'{"epoch": 1, "loss": 2.0}\n'

    @pytest.mark.parametrize(
        "damage", [b"\0\0\0\0\0\0", b"\xff\xfe{", b"[]\n", b'"text"\n', b"{}\n", b"[" * 100_000]
    )
    def test_what_is_no_line_of_ours_ends_the_file(self, folder: Path, damage: bytes) -> None:
        file = folder / "metrics.jsonl"
        file.write_bytes(b'{"epoch": 0}\n' + damage)
        assert read_metrics(file) == [{"epoch": 0}]
        write_metrics(file, {"epoch": 1})
        assert file.read_bytes() == b'{"epoch": 0}\n{"epoch": 1}\n'

    def test_epochs_that_are_done_again_go(self, folder: Path) -> None:
        file = folder / "metrics.jsonl"
        for epoch in range(4):
            write_metrics(file, {"epoch": epoch})
        write_metrics(file, {"epoch": 2, "again": True})
        assert [line["epoch"] for line in read_metrics(file)] == [0, 1, 2]
        assert read_metrics(file)[-1]["again"]

    def test_a_disk_that_fills_leaves_no_half_line(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = folder / "metrics.jsonl"
        write_metrics(file, {"epoch": 0})
        before, write = file.read_bytes(), os.write

        def full(descriptor: int, content: bytes) -> int:
            if len(content) < 8:
                raise OSError(28, "No space left on device")
            return write(descriptor, content[:8])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            write_metrics(file, {"epoch": 1})
        assert file.read_bytes() == before
