"""Images that are read when they are taken are those that one has at once."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.data import LazySplit, load_split
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder

WANTED = torch.tensor([3, 0, 2])


@pytest.mark.parametrize("image_size", [0, 5])
def test_it_reads_what_it_is_asked_for(few_digits: Path, image_size: int) -> None:
    images, _ = load_split(few_digits, "train", image_size=image_size)
    lazy = LazySplit(few_digits, "train", image_size=image_size)
    assert torch.equal(lazy[WANTED], images[WANTED])
    positions = np.array([1, 4, 5, 7])
    part = LazySplit(few_digits, "train", image_size=image_size, positions=positions)
    assert torch.equal(part[WANTED], images[positions][WANTED])


def test_it_reads_a_beton_as_well(write_folder: WriteFolder, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    out = tmp_path / "out"
    info = prepare_dataset(f"folder:{write_folder()}", out, progress=False)
    images, _ = load_split(out, "test")
    (out / "test.safetensors").unlink()
    del info.files["test.safetensors"]
    info.save(out)
    lazy = LazySplit(out, "test")
    for wanted in (WANTED, torch.tensor([1])):
        assert torch.equal(lazy[wanted], images[wanted])


def test_another_process_opens_it_itself(few_digits: Path) -> None:
    lazy = LazySplit(few_digits, "test")
    found = lazy[WANTED]
    sent = pickle.dumps(lazy)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)[WANTED], found)


def test_which_images_they_are_has_a_name(few_digits: Path) -> None:
    parts = (None, np.array([0, 1]), np.array([0, 2]))
    names = {LazySplit(few_digits, "test", positions=each).identity for each in parts}
    names |= {LazySplit("elsewhere", "test", positions=each).identity for each in parts}
    names |= {LazySplit(few_digits, "train").identity}
    names |= {LazySplit(few_digits, "test", image_size=9).identity}
    # The folder's own name is not what tells them apart.
    assert len(names) == 5


def test_a_folder_that_is_not_there_is_said_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; make it with"):
        LazySplit(tmp_path / "nothing", "test")[WANTED]


def test_an_address_stays_one_and_a_relative_path_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert LazySplit("s3://bucket/set", "test").path == "s3://bucket/set"
    assert LazySplit("set", "test").path == str(tmp_path / "set")
