"""From a source to a data-set folder."""

from __future__ import annotations

import errno
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from dynat_ray.atomic_files import publish_folder
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.info import LARGEST_TENSOR_FILE, DatasetInfo, describe_file
from dynat_ray.data.preparing.image_files import BadImage
from dynat_ray.data.preparing.image_sets import ImageSet
from dynat_ray.data.preparing.parallel import ordered_map
from dynat_ray.data.preparing.sources import Source, open_source
from dynat_ray.data.preparing.storing import (
    Encoded,
    Layout,
    SplitWriter,
    encode,
    moments,
    stored_size,
)
from dynat_ray.data.subsets import Indices, balanced_subset
from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path

_SMALL_SIDE = 96
"""Images up to this many pixels a side are stored raw, however many there are."""
_MAX_SIDE = 500
"""Longest side of images stored as JPEG."""

Chosen = dict[str, Indices]
Result = TypeVar("Result")


def prepare_dataset(
    source: str,
    out: Path,
    *,
    size: int | None = None,
    limit: int = 0,
    skip_bad: bool = False,
    progress: bool = True,
) -> DatasetInfo:
    """Reads a source and writes a data-set folder, whole or not at all.

    Images of one size are stored with exact pixels as long as that takes up to 2 GiB or they are
    small; others as JPEG with the longest side at most 500 pixels.

    Args:
        source: See `dynat_ray.data.preparing.sources`.
        out: Folder to make. A data-set folder that is there already is replaced.
        size: Resize the shorter side to so many pixels and crop the centre; None: as they are.
        limit: Take a class-balanced part of at most so many images of each split; 0: all.
        skip_bad: Leave out unreadable images and count them, instead of raising.
        progress: Show a progress bar on stderr.

    Returns:
        What was written.

    Raises:
        UserError: The source is not what it should be, an image is unreadable, or there is no
            room or no permission to write.
    """
    if size is not None and size < 1:
        raise UserError(f"--size is {size}; it must be at least 1 pixel")
    if limit < 0:
        raise UserError(f"--limit is {limit}; it must be 0 (all) or a number of images")
    with _new_folder(user_path(out)) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        info = _Preparation(open_source(source, scratch), folder, size, skip_bad, progress).run(
            source, limit
        )
        shutil.rmtree(scratch)
        for file in sorted(folder.iterdir()):
            info.files[file.name] = describe_file(file)
        info.save(folder)
    return info


class _Preparation:
    """One run over the images of a source."""

    def __init__(
        self, source: Source, folder: Path, size: int | None, skip_bad: bool, progress: bool
    ) -> None:
        self._source = source
        self._folder = folder
        self._size = size
        self._skip_bad = skip_bad
        self._progress = progress
        self._skipped = 0

    def run(self, source: str, limit: int) -> DatasetInfo:
        splits = self._source.splits
        chosen = {name: balanced_subset(images.labels, limit) for name, images in splits.items()}
        layout, chosen = self._inspect(chosen)
        digest = hashlib.sha256()
        writers = {}
        for name, images in splits.items():
            writers[name] = self._store(name, images, chosen[name], layout)
            digest.update(writers[name].close().encode())
        mean, std = moments(writers["train"].levels)
        return DatasetInfo(
            name=self._source.name,
            source=source,
            classes=self._source.classes,
            channels=layout.channels,
            size=layout.size,
            storage=layout.storage,
            max_side=layout.max_side,
            counts={name: len(writer.labels) for name, writer in writers.items()},
            mean=mean,
            std=std,
            checksum=digest.hexdigest(),
            skipped=self._skipped,
            options=self._options(limit),
        )

    def _inspect(self, chosen: Chosen) -> tuple[Layout, Chosen]:
        """Reads all headers; returns the layout, and the images that have a header."""
        channels = 1
        sizes: set[tuple[int, int]] = set()
        good: Chosen = {}
        total = sum(len(each) for each in chosen.values())
        with self._bar("looking", total) as bar:
            for name, positions in chosen.items():
                keep = np.ones(len(positions), dtype=bool)
                headers = ordered_map(_guarded(self._source.splits[name].header), positions)
                for number, found in enumerate(headers):
                    bar.update()
                    if isinstance(found, BadImage):
                        self._refuse(found)
                        keep[number] = False
                    else:
                        channels = max(channels, found[0])
                        sizes.add(found[1])
                good[name] = positions[keep]
        if self._size is not None:
            sizes = {(self._size, self._size)}
        count = max(len(each) for each in good.values())
        return _choose_layout(channels, sizes, count), good

    def _store(
        self, name: str, images: ImageSet, positions: Indices, layout: Layout
    ) -> SplitWriter:
        writer = SplitWriter(self._folder, name, layout, len(positions))

        def read(position: int) -> Encoded:
            return encode(images.read(position, layout.channels, self._size or 0), layout)

        with self._bar(name, len(positions)) as bar:
            results = ordered_map(_guarded(read), positions)
            for position, found in zip(positions, results, strict=True):
                bar.update()
                if isinstance(found, BadImage):
                    self._refuse(found)
                else:
                    writer.add(found, int(images.labels[position]))
        stored = np.bincount(writer.labels, minlength=len(self._source.classes))
        for label in np.flatnonzero(stored == 0):
            raise UserError(
                f"class '{self._source.classes[label]}' has no usable {name} images; give more, or "
                "a larger --limit"
            )
        return writer

    def _options(self, limit: int) -> list[str]:
        size = [] if self._size is None else ["--size", str(self._size)]
        part = ["--limit", str(limit)] if limit else []
        return size + part + (["--skip-bad"] if self._skip_bad else [])

    def _refuse(self, bad: BadImage) -> None:
        if not self._skip_bad:
            raise UserError(f"cannot read image {bad}; repair it, or leave such out: --skip-bad")
        self._skipped += 1

    def _bar(self, text: str, total: int) -> tqdm[None]:
        return tqdm(
            total=total,
            desc=text,
            unit="img",
            file=sys.stderr,
            disable=None if self._progress else True,
        )


def _guarded(function: Callable[[int], Result]) -> Callable[[int], Result | BadImage]:
    """Returns `function` with `BadImage` as a result instead of an exception."""

    def run(position: int) -> Result | BadImage:
        try:
            return function(int(position))
        except BadImage as bad:
            return bad

    return run


def _choose_layout(channels: int, sizes: set[tuple[int, int]], count: int) -> Layout:
    problem = ffcv_problem()
    common = next(iter(sizes)) if len(sizes) == 1 else None
    pixels = count * channels * common[0] * common[1] if common else 0
    tensors = common is not None and pixels <= LARGEST_TENSOR_FILE
    raw = tensors or (common is not None and max(common) <= _SMALL_SIDE)
    if problem and not tensors:
        what = "are larger than 2 GiB together" if common else "have different sizes"
        raise UserError(
            f"the images {what}, which takes FFCV, and FFCV does not import ({problem}); install "
            "it (pip install 'dynat-ray[ffcv]'), or give a smaller --size"
        )
    return Layout(
        channels=channels,
        size=common if raw or common is None else stored_size(common, _MAX_SIDE),
        storage="raw" if raw else "jpeg",
        max_side=0 if raw else _MAX_SIDE,
        beton=not problem,
        tensors=tensors,
    )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Gives a new folder beside `out` and renames it to `out` at the end, or removes it."""
    try:
        _replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise _cannot_write(out, error) from None
    try:
        try:
            made.chmod(0o755)
            yield made
            # Asked again: another run may have made it meanwhile.
            _replaceable(out)
            publish_folder(made, out)
        except OSError as error:
            raise _cannot_write(out, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replaceable(out: Path) -> bool:
    """Returns whether a data set is at `out`; raises if anything else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "dataset.json").is_file():
        raise UserError(f"{out} exists and is no data-set folder; give another --out")
    return True


def _cannot_write(out: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk of {out} is full; make room, or give --out on another disk")
    what = error.filename or out
    return UserError(f"cannot prepare {out}: {error.strerror or error}: {what}")
