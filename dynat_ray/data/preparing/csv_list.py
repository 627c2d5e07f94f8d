"""A CSV file that lists images: path, label, split."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing.file_stores import open_regular
from dynat_ray.data.preparing.labelled_files import LabelledFiles, label_source
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import choose_splits, split_named_by
from dynat_ray.errors import UserError

_COLUMNS = ("path", "label", "split")


def read_csv(file: Path) -> Source:
    """Reads the images that a CSV file lists.

    Args:
        file: Its first line names the columns: `path` (from the file's own folder, or absolute),
            `label` (a number or a name) and `split` (`train`, `test` or `val`). Others are ignored.

    Raises:
        UserError: A column, split, label or path is missing.
    """
    rows: dict[str, LabelledFiles] = {}
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8; save it as such") from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    there = reader.fieldnames or []
    for column in _COLUMNS:
        if column not in there:
            raise UserError(
                f"{file} has no column '{column}'; its first line must name path, label and split, "
                f"and is: {', '.join(there)[:200] or 'empty'}"
            )
    for row in reader:
        path, label, split = ((row[column] or "").strip() for column in _COLUMNS)
        if not path or not label:
            raise UserError(f"{file}: line {reader.line_num} has no {'label' if path else 'path'}")
        called = split_named_by(split) or split
        rows.setdefault(called, LabelledFiles()).add(PurePosixPath(path), label)
    left_out = Tally()
    counts = Counter({split: len(each.files) for split, each in rows.items()})
    chosen = choose_splits(str(file), counts, left_out)
    splits = {split: rows[called] for split, called in chosen.items()}
    return label_source(file.stem, _FilesOf(file.parent), splits, left_out=left_out)


class _FilesOf:
    """Files by their path from a folder; a `FileStore` of what somebody else has listed."""

    def __init__(self, folder: Path) -> None:
        self.shown = str(folder)
        self.root = PurePosixPath(os.path.realpath(folder))
        self.names: list[PurePosixPath] = []
        self.real: dict[PurePosixPath, PurePosixPath] = {}
        self.left_out = Tally()

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`."""
        return open_regular(self.root / name)
