"""A `.beton` of somebody else is checked before FFCV follows its addresses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.data import load_info, load_labels
from dynat_ray.data.beton_check import _FIELD, _HEADER, _RECORD, _REGION, check_beton
from dynat_ray.data.info import describe_file
from dynat_ray.errors import UserError

pytest.importorskip("ffcv")

from ffcv.fields import IntField, RGBImageField
from ffcv.types import ALLOC_TABLE_TYPE, FieldDescType, HeaderType, get_metadata_type

from dynat_ray.data.ffcv_reader import FfcvReader


def test_the_tables_are_ffcvs_own() -> None:
    assert HeaderType == _HEADER
    assert FieldDescType == _FIELD
    assert get_metadata_type([RGBImageField(), IntField()]) == _RECORD
    assert ALLOC_TABLE_TYPE == _REGION


class Tables:
    """The tables of a beton, to be spoilt in place."""

    def __init__(self, file: Path) -> None:
        self.bytes = np.fromfile(file, np.uint8)
        self.header = self.bytes[: _HEADER.itemsize].view(_HEADER)[0:1]
        start = _HEADER.itemsize
        self.fields = self.bytes[start : start + 2 * _FIELD.itemsize].view(_FIELD)
        start += 2 * _FIELD.itemsize
        count = int(self.header["num_samples"][0])
        self.records = self.bytes[start : start + count * _RECORD.itemsize].view(_RECORD)
        self.regions = self.bytes[int(self.header["alloc_table_ptr"][0]) :].view(_REGION)


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """A copy of the prepared digits whose test split is read through FFCV alone."""
    for path in digits.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def spoilt(folder: Path, spoil: Callable[[Tables], Any]) -> None:
    """Spoils the test split, with a description that has its checksum, as a stranger would."""
    file = folder / "test.beton"
    tables = Tables(file)
    spoil(tables)
    tables.bytes.tofile(file)
    described(folder)


def described(folder: Path) -> None:
    info = load_info(folder)
    info.files["test.beton"] = describe_file(folder / "test.beton")
    info.files.pop("test.safetensors", None)
    info.save(folder)


def test_an_honest_one_passes(folder: Path) -> None:
    expected = load_labels(folder, "test")
    spoilt(folder, lambda tables: None)
    assert torch.equal(load_labels(folder, "test"), expected)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.header.__setitem__("version", 3), "version 3"),
        (lambda t: t.header.__setitem__("num_fields", 3), "3 fields"),
        (lambda t: t.header.__setitem__("num_fields", 65535), "65535 fields"),
        (lambda t: t.header.__setitem__("page_size", 0), "pages"),
        (lambda t: t.header.__setitem__("page_size", 3), "pages"),
        (lambda t: t.header.__setitem__("num_samples", 0), "0 images"),
        (lambda t: t.header.__setitem__("num_samples", 2**63), "images"),
        (lambda t: t.header.__setitem__("alloc_table_ptr", 0), "elsewhere"),
        (lambda t: t.header.__setitem__("alloc_table_ptr", 2**64 - 8), "elsewhere"),
        (lambda t: t.fields["type_id"].__setitem__(0, 5), "of type 5"),
        (lambda t: t.fields["type_id"].__setitem__(1, 4), "of type 4"),
        (lambda t: t.fields["type_id"].__setitem__(0, 255), "of type 255"),
        (lambda t: t.fields["name"].__setitem__((0, 0), 65), "field b'Amage'"),
        (lambda t: t.regions["ptr"].__setitem__(3, 2**63), "leaves it"),
        (lambda t: t.regions["ptr"].__setitem__(3, 2**64 - 1), "leaves it"),
        (lambda t: t.regions["ptr"].__setitem__(3, 0), "leaves it"),
        (lambda t: t.regions["size"].__setitem__(3, 2**64 - 1), "leaves it"),
        (lambda t: t.regions["size"].__setitem__(3, 0), "leaves it"),
        (lambda t: t.regions["size"].__setitem__(3, 2**16), "size|leaves it"),
        (lambda t: t.regions["size"].__setitem__(3, 1), "its image's size"),
        (lambda t: t.regions["ptr"].__setitem__(3, t.regions["ptr"][4]), "one place"),
        (lambda t: t.records["f0"]["data_ptr"].__setitem__(0, 2**64 - 1), "in no region"),
        (lambda t: t.records["f0"]["data_ptr"].__setitem__(0, 0), "in no region"),
        (
            lambda t: t.records["f0"]["data_ptr"].__setitem__(0, t.regions["ptr"][0] + 1),
            "in no region",
        ),
        (lambda t: t.records["f0"]["mode"].__setitem__(0, 0), "stored otherwise"),
        (lambda t: t.records["f0"]["mode"].__setitem__(0, 7), "stored otherwise"),
        (lambda t: t.records["f0"]["height"].__setitem__(0, 0), "no pixels"),
        (lambda t: t.records["f0"]["width"].__setitem__(slice(None), 65535), "another size"),
        (lambda t: t.records["f1"].__setitem__(0, -1), "no class"),
        (lambda t: t.records["f1"].__setitem__(0, 2**40), "no class"),
    ],
)
def test_a_hostile_one_is_refused_before_ffcv_sees_it(
    folder: Path, spoil: Callable[[Tables], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(folder, spoil)
    monkeypatch.setattr("dynat_ray.data.ffcv_reader._open_loader", None)
    with pytest.raises(UserError, match=rf"test\.beton is no file .*({words}).*prepare it again"):
        load_labels(folder, "test")


def test_any_bytes_are_refused(folder: Path) -> None:
    file, random = folder / "test.beton", np.random.default_rng(0)
    whole, info = file.read_bytes(), load_info(folder)
    tables = _HEADER.itemsize + 2 * _FIELD.itemsize
    for length in (0, 1, 23, 24, 1000, tables, tables + 50, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="no file that FFCV may read"):
            check_beton(info, file)
    refused = 0
    for _ in range(200):
        spoilt_bytes = bytearray(whole)
        # All of the header and the fields, but the arguments of the fields, and records.
        for place in random.integers(0, 24, 2):
            spoilt_bytes[place] = random.integers(256)
        file.write_bytes(spoilt_bytes)
        try:
            check_beton(info, file)
        except UserError:
            refused += 1
    assert refused > 150


def test_jpegs_are_no_larger_than_the_description_says(folder: Path) -> None:
    info = load_info(folder)
    file = folder / "test.beton"
    jpeg = dataclasses.replace(info, storage="jpeg", size=None, max_side=8)
    tables = Tables(file)
    tables.records["f0"]["mode"] = 0
    tables.bytes.tofile(file)
    check_beton(jpeg, file)
    with pytest.raises(UserError, match="exceeds 7"):
        check_beton(dataclasses.replace(jpeg, max_side=7), file)


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"size": [8]},
        {"size": [8.5, 8]},
        {"size": [0, 8]},
        {"size": "88"},
        {"classes": 5},
        {"classes": []},
        {"classes": [1, 2]},
        {"classes": None},
        {"channels": 2},
        {"channels": "1"},
        {"storage": "png"},
        {"max_side": -1},
        {"counts": None},
        {"counts": {"test": -1}},
        {"counts": {"test": "359"}},
        {"mean": [float("nan")]},
        {"mean": ["a"]},
        {"mean": [0.1, 0.1]},
        {"std": []},
        {"checksum": 5},
        {"source": ["folder:x"]},
        {"options": [5]},
        {"files": {"test.beton": {"bytes": "x", "crc32": 1}}},
        {"files": {"test.beton": {"bytes": 1}}},
        {"files": []},
        {"more": 1},
        {"name": None},
        {"skipped": None},
        {"format_version": [1]},
    ],
)
def test_a_description_of_any_types_is_refused(folder: Path, change: dict[str, Any]) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=r"is damaged|has format"):
        load_info(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3", "[" * 100_000, "{" * 1000, '{"a":' * 5000])
def test_a_description_that_is_anything_is_refused(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        load_info(folder)


def test_the_reader_is_given_nothing_unchecked(folder: Path) -> None:
    spoilt(folder, lambda t: t.regions["size"].__setitem__(0, 2**20))
    with pytest.raises(UserError, match="no file that FFCV may read"):
        FfcvReader(
            load_info(folder), folder / "test.beton", device=torch.device("cpu"), batch_size=8
        )
