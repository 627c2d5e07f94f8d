"""Prepared data that go to an object store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from dynat_ray.data.preparing import part_sending, prepare_dataset
from dynat_ray.data.stored_parts import joined, part_names
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder
from tests.data.stores import Objects, watched

# Parts of a few images; of those of several sizes one has more.
SMALL = 3 * 12 * 10 * 8


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(part_sending, "_PART_BYTES", SMALL)
    monkeypatch.setattr("dynat_ray.object_store._PAUSES", (0.0, 0.0))
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "cache"))


def put(made: list[str]) -> list[str]:
    """Returns the names of the parts that were sent."""
    names = [each.rpartition("/")[2] for each in made if each.startswith("PUT ")]
    return sorted({name for name in names if "-of-" in name})


def test_joined_parts_are_the_files_of_a_folder(
    write_folder: WriteFolder, s3: str, bucket: str, tmp_path: Path
) -> None:
    source = f"folder:{write_folder()}"
    local = prepare_dataset(source, tmp_path / "local", progress=False)
    sent = prepare_dataset(source, f"{bucket}/set", progress=False)
    assert sent.files == local.files
    assert sent.checksum == local.checksum
    assert {each.bytes for each in sent.parts["train.beton"]} > {SMALL}
    objects = Objects(s3, f"{bucket}/set")
    expected = {"dataset.json", "preview.png"}
    for name, parts in sent.parts.items():
        names = part_names(name, len(parts))
        content = b"".join(map(objects.read, names))
        assert content == (tmp_path / "local" / name).read_bytes()
        assert joined(parts) == local.files[name]
        expected |= set(names)
    assert set(objects.names()) == expected
    assert json.loads(objects.read("dataset.json"))["parts"]
    # Nothing is left here.
    assert list((tmp_path / "cache" / "preparing").iterdir()) == []


def test_what_was_sent_before_a_kill_is_not_sent_again(
    write_folder: WriteFolder, server: ThreadedMotoServer, s3: str, bucket: str
) -> None:
    source, address = f"folder:{write_folder()}", f"{bucket}/set"
    whole = prepare_dataset(source, f"{bucket}/whole", progress=False)

    # Also where there is no FFCV, and so no other file.
    last = part_names("train.safetensors", len(whole.parts["train.safetensors"]))[-1]

    def refuse(asked: str) -> tuple[str, str] | None:
        late = asked.startswith("PUT ") and asked.endswith(last)
        return ("403 Forbidden", "AccessDenied") if late else None

    with watched(server, refuse) as made, pytest.raises(UserError, match="refuses the keys"):
        prepare_dataset(source, address, progress=False)
    objects = Objects(s3, address)
    assert "dataset.json" not in objects.names()
    before = set(json.loads(objects.read("unfinished.json")))
    assert before
    with watched(server) as made:
        resumed = prepare_dataset(source, address, progress=False)
    assert not before.intersection(put(made))
    assert set(put(made)) | before == {n for n in objects.names() if "-of-" in n}
    assert (resumed.parts, resumed.checksum) == (whole.parts, whole.checksum)
    assert "unfinished.json" not in objects.names()


def test_another_set_takes_the_place_of_one_with_more_parts(
    write_folder: WriteFolder, s3: str, bucket: str
) -> None:
    address = f"{bucket}/set"
    prepare_dataset(f"folder:{write_folder('many', train=9)}", address, progress=False)
    few = prepare_dataset(f"folder:{write_folder('few')}", address, progress=False)
    there = {name for name in Objects(s3, address).names() if "-of-" in name}
    assert there == {n for name, parts in few.parts.items() for n in part_names(name, len(parts))}


def test_a_complete_set_is_made_anew_as_a_whole(
    write_folder: WriteFolder, s3: str, bucket: str
) -> None:
    source, address = f"folder:{write_folder()}", f"{bucket}/set"
    prepare_dataset(source, address, progress=False)
    objects = Objects(s3, address)
    part = objects.read("train-00001-of-00005.beton")
    objects.write("train-00001-of-00005.beton", bytes(len(part)))
    prepare_dataset(source, address, progress=False)
    assert objects.read("train-00001-of-00005.beton") == part


def test_dropped_images_leave_parts_that_are_smaller_or_empty(
    write_folder: WriteFolder, bucket: str, tmp_path: Path
) -> None:
    folder = write_folder(train=20)
    for name in ("cat", "dog"):
        first = (folder / "train" / name / "000.png").read_bytes()
        for file in (folder / "train" / name).iterdir():
            file.write_bytes(first)
    options = {"drop_duplicates": True, "progress": False}
    local = prepare_dataset(f"folder:{folder}", tmp_path / "local", **options)
    sent = prepare_dataset(f"folder:{folder}", f"{bucket}/set", **options)
    assert sent.files == local.files
    assert 0 in {each.bytes for each in sent.parts["train.beton"]}


def test_what_is_no_data_set_is_left_alone(write_folder: WriteFolder, s3: str, bucket: str) -> None:
    objects = Objects(s3, f"{bucket}/set")
    objects.write("thesis.tex", b"all of it")
    with pytest.raises(UserError, match=r"other objects, such as thesis\.tex"):
        prepare_dataset(f"folder:{write_folder()}", f"{bucket}/set", progress=False)
    assert objects.names() == ["thesis.tex"]


def test_a_bucket_that_is_not_there(write_folder: WriteFolder, s3: str) -> None:
    with pytest.raises(UserError, match="the store s3://no-such-bucket/set does not answer"):
        prepare_dataset(f"folder:{write_folder()}", "s3://no-such-bucket/set", progress=False)


def test_a_store_that_is_away_for_a_moment_is_asked_again(
    write_folder: WriteFolder, server: ThreadedMotoServer, bucket: str
) -> None:
    asked_before: set[str] = set()

    def refuse(asked: str) -> tuple[str, str] | None:
        again = asked in asked_before or "-of-" not in asked
        asked_before.add(asked)
        return None if again else ("400 Bad Request", "RequestTimeout")

    # The client waits a little for each part.
    source = f"folder:{write_folder(train=3, test=1)}"
    with watched(server, refuse):
        prepare_dataset(source, f"{bucket}/set", progress=False)
    assert len(asked_before) > 3
