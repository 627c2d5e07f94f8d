"""WebDataset: tar files in which the files of a sample share a name but for its ending.

https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dynat_ray.data.account import Tally, listed
from dynat_ray.data.preparing.archives import unpack_into
from dynat_ray.data.preparing.file_stores import PackedFiles
from dynat_ray.data.preparing.labelled_files import Label, LabelledFiles, label_source
from dynat_ray.data.preparing.shard_files import (
    common_folder,
    copy_here,
    find_files,
    read_beside,
    shown_name,
)
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import choose_splits, split_named_by
from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address
from dynat_ray.user_path import user_path

_SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")
_IMAGE_ENDINGS = frozenset(
    {"jpg", "jpeg", "png", "ppm", "pgm", "pbm", "webp", "bmp", "gif", "tif", "tiff", "jp2", "avif"}
)
_LABELS = ("cls", "label", "class")
_LONGEST_LABEL = 2**16
_CLASSES = "classes.txt"


def read_webdataset(shards: str, scratch: Path) -> Source:
    """Reads WebDataset shards, whose names say `train`, and `test` or `val`.

    A sample's label is what `.cls` (`.label`, `.class`) or that key of `.json` holds: a number or
    a name. Names of numbers may stand in `classes.txt` beside the shards, one a line.

    Args:
        shards: See `find_files`.
        scratch: Folder for the images, which are copied out of the shards.

    Raises:
        UserError: A split is missing, a shard damaged, or a sample has no label or two images.
    """
    files = find_files(shards, _SHARD_ENDINGS)
    left_out = Tally()
    root = common_folder(files)
    split_of = {file: split_named_by(file[len(root) :]) for file in files}
    chosen = choose_splits(f"wds:{shards}", Counter(split_of.values()), left_out)
    store = _Samples(f"wds:{shards}", scratch / "packed")
    splits = {}
    for split, called in chosen.items():
        splits[split] = LabelledFiles()
        for number, file in enumerate(files):
            if split_of[file] == called:
                # Two folders may hold shards of one name.
                below = PurePosixPath(str(number)) / shown_name(file)
                _unpack(file, store, below, scratch)
                store.take(splits[split], file)
    left_out.include(store.left_out)
    names = read_beside(files[0], _CLASSES).split("\n")
    name = shown_name(root.rstrip("/") or shards).name or "webdataset"
    return label_source(name, store, splits, [each for each in names if each.strip()], left_out)


class _Samples(PackedFiles):
    """The images of shards; what else their samples hold is kept until the labels are taken."""

    def __init__(self, shown: str, packed: Path) -> None:
        super().__init__(shown, packed)
        self._images: dict[str, list[PurePosixPath]] = {}
        self._others: dict[str, dict[str, bytes]] = {}

    def add(self, name: PurePosixPath, pieces: Iterable[bytes]) -> int:
        """Appends a file. All but images are small, and are held in memory."""
        key, _, ending = name.name.partition(".")
        sample = str(name.parent / key)
        kind = ending.rpartition(".")[2].lower()
        if kind in _IMAGE_ENDINGS:
            self._images.setdefault(sample, []).append(name)
            return super().add(name, pieces)
        content = bytearray()
        size = 0
        for piece in pieces:
            size += len(piece)
            content += piece[: max(0, _LONGEST_LABEL - len(content))]
        self._others.setdefault(sample, {})[kind] = bytes(content)
        return size

    def follow_links(self, most: int) -> int:
        """Refuses links: a sample that is one would be lost without a word."""
        if self._links:
            raise UserError(
                f"{self.shown}: {next(iter(self._links))} is a link; pack the shards with "
                "tar --dereference --hard-dereference"
            )
        return 0

    def take(self, split: LabelledFiles, shard: str) -> None:
        """Takes the samples since the last time, which are those of one shard."""
        for sample, images in self._images.items():
            others = self._others.pop(sample, {})
            if len(images) > 1:
                found = ", ".join(sorted(each.name for each in images))
                raise UserError(f"{shard}: a sample has several images: {found}")
            split.add(images[0], _label_of(images[0], others, shard))
        if self._others:
            first = next(iter(self._others))
            self.left_out.add("samples without an image", first, len(self._others))
        self._images, self._others = {}, {}


def _label_of(image: PurePosixPath, others: dict[str, bytes], shard: str) -> Label:
    values: dict[str, object] = {}
    for ending in _LABELS:
        if ending in others:
            values[ending] = others[ending].decode(errors="replace").strip()
    if not values and "json" in others:
        try:
            values = json.loads(others["json"])
        except ValueError:
            raise UserError(f"{shard}: the .json beside {image.name} is damaged") from None
    found = [values[key] for key in _LABELS if isinstance(values, dict) and key in values]
    if not found or not isinstance(found[0], int | str) or found[0] in ("", -1, "-1"):
        there = listed((f".{ending}" for ending in others), len(others)) or "no other file"
        raise UserError(
            f"{shard}: the sample of {image.name} has no label, only {there}; it must be a number "
            "or name in a .cls file, or `label` in a .json file"
        )
    label = found[0]
    return int(label) if str(label).isdecimal() else str(label)


def _unpack(file: str, store: PackedFiles, below: PurePosixPath, scratch: Path) -> None:
    if not is_address(file):
        unpack_into(user_path(file), store, below)
        return
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".tar") as copy:
        copy_here(file, copy.file)
        copy.flush()
        unpack_into(Path(copy.name), store, below)
