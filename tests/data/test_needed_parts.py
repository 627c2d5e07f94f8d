"""Machines that fetch the parts alone that hold the images they read."""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer

from dynat_ray.data import (
    ReadingOptions,
    bytes_to_fetch,
    fetch_split,
    kind_here,
    load_labels,
    load_split,
)
from dynat_ray.data.info import StoredFile
from dynat_ray.data.needed_parts import _spans
from dynat_ray.data.preparing import part_sending, prepare_dataset
from dynat_ray.data.readers import Kind, open_reader
from dynat_ray.data.store_copy import data_folder
from dynat_ray.data.stored_parts import parts_with
from dynat_ray.errors import UserError
from tests.data.loading import KINDS, compile_nothing
from tests.data.stores import watched

IMAGES, SIDE = 96, 16
HALVES = np.split(np.arange(IMAGES), 2)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynat_ray.data.cache_room._SPARE", 0)


@pytest.fixture(scope="module")
def prepared(s3: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A set's address and folder, which no test changes."""
    root = tmp_path_factory.mktemp("needed")
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket="needed-parts")
    address, folder = "s3://needed-parts/set", root / "local"
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(root / "made.npz", image=pixels, label=np.arange(IMAGES) % 3)
    with pytest.MonkeyPatch.context() as patch:
        # Eight images a part.
        patch.setattr(part_sending, "_PART_BYTES", 8 * 3 * SIDE * SIDE)
        patch.setattr("dynat_ray.data.cache_room._SPARE", 0)
        patch.setenv("DYNAT_RAY_CACHE", str(root / "cache"))
        for place in (address, folder):
            prepare_dataset(f"npz:{root / 'made.npz'}", place, progress=False)
    return address, folder


@pytest.fixture
def address(prepared: tuple[str, Path]) -> str:
    return prepared[0]


def on_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on, this process is of another machine."""
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(folder))


def read(address: str, kind: Kind, used: np.ndarray) -> torch.Tensor:
    options = ReadingOptions(device=torch.device("cpu"), kind=kind)
    reader = open_reader(data_folder(address), "train", used, 16, options)
    images = torch.cat(list(reader.batches(used[::-1].copy())))
    reader.close()
    return images.flip(0).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_two_machines_fetches_half(
    kind: Kind,
    prepared: tuple[str, Path],
    server: ThreadedMotoServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    compile_nothing(monkeypatch)
    address, local = prepared
    expected, labels = load_split(local, "train")
    on_machine(monkeypatch, tmp_path / "whole")
    (everything,) = bytes_to_fetch(address, "train", kind, [np.arange(IMAGES)])
    for number, half in enumerate(HALVES):
        on_machine(monkeypatch, tmp_path / f"machine-{number}")
        assert torch.equal(load_labels(address, "train"), labels)
        before = bytes_to_fetch(address, "train", kind, [half, np.arange(IMAGES), half[-1:]])
        # One part lies on both sides where tensors are cut anywhere.
        assert before[0] == pytest.approx(everything / 2, abs=1.1 * 8 * 3 * SIDE * SIDE)
        assert before[1] == everything > before[0] > before[2] > 0
        fetch_split(address, "train", kind, used=half)
        with watched(server) as made:
            assert bytes_to_fetch(address, "train", kind, [half]) == [0]
            assert torch.equal(read(address, kind, half), expected[half])
            assert kind_here(address, "train", half) is not None
            assert kind_here(address, "train", np.arange(IMAGES)) is None
        assert made == []
        (rest,) = bytes_to_fetch(address, "train", kind, [np.arange(IMAGES)])
        assert rest == before[1] - before[0]
    # Whoever wants the rest fetches the rest.
    assert torch.equal(load_split(address, "train")[0], expected)
    assert kind_here(address, "train", np.arange(IMAGES)) == "memory"


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_changed_on_the_disk_is_noticed(
    kind: Kind, address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_machine(monkeypatch, tmp_path / "machine")
    fetch_split(address, "train", kind, used=HALVES[0])
    name = "train.beton" if kind == "ffcv" else "train.safetensors"
    (copy,) = (tmp_path / "machine" / "from-stores").glob(f"*/{name}")
    here = min(part for part in range(2, 9) if str(part) in _listed(copy))
    with copy.open("r+b") as opened:
        start = sum(part.bytes for part in _parts(copy)[:here])
        opened.seek(start + 5)
        byte = opened.read(1)
        opened.seek(start + 5)
        opened.write(bytes([byte[0] ^ 1]))
    with pytest.raises(UserError, match="its checksum is wrong; remove .*, and it is fetched"):
        read(address, kind, HALVES[0])


def _listed(copy: Path) -> list[str]:
    return copy.with_name(f"{copy.name}.parts").read_text().split()


def _parts(copy: Path) -> list[StoredFile]:
    described = json.loads((copy.parent / "dataset.json").read_text())
    return [StoredFile(**part) for part in described["parts"][copy.name]]


def test_parts_that_hold_pieces_of_a_file() -> None:
    parts = [StoredFile(bytes=size, crc32=0) for size in (10, 0, 5, 20)]
    cases = {(0, 1): {0}, (9, 1): {0}, (9, 2): {0, 2}, (10, 5): {2}, (14, 9): {2, 3}, (34, 1): {3}}
    for (start, length), wanted in cases.items():
        assert parts_with(parts, np.array([start]), np.array([length])) - {1} == wanted
    several = np.array(list(cases))
    assert parts_with(parts, several[:, 0], several[:, 1]) - {1} == {0, 2, 3}
    assert parts_with(parts, several[:0, 0], several[:0, 1]) == set()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (80).to_bytes(8, "little") + b'{"images":{"data_offsets":[0,9e9]},"labels":{}}',
        (88).to_bytes(8, "little")
        + json.dumps({name: {"data_offsets": [5, 99]} for name in ("images", "labels")}).encode(),
    ],
)
def test_tensors_with_another_header_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="its header is none of safetensors"):
        _spans(tmp_path / "train.safetensors")
