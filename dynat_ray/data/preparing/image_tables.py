"""Tables (Parquet, Arrow) with a column of encoded images and one of labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing.file_stores import PackedFiles
from dynat_ray.data.preparing.labelled_files import Label, LabelledFiles, label_source
from dynat_ray.data.preparing.shard_files import open_file, shown_name
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import choose_splits
from dynat_ray.errors import UserError

TABLE_ENDINGS = (".parquet", ".arrow")
_IMAGE_NAMES = ("image", "img", "jpg", "png", "picture")
_LABEL_NAMES = ("label", "fine_label", "labels", "cls", "class", "target")
_ROWS = 64
_BUFFER = 2**22
_NO_BYTES = "the row holds no bytes of an image"

Features = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Which columns hold images and labels; empty: those that look like it."""

    image: str = ""
    label: str = ""


def read_tables(
    shown: str,
    name: str,
    split_of: dict[str, str],
    scratch: Path,
    columns: Columns,
    class_names: list[str] | None = None,
) -> Source:
    """Reads tables; images are copied out of them, since tables hold many rows in a piece.

    An image is a value of bytes, or of a structure with `bytes`, as Hugging Face's `datasets`
    writes it. Names of the classes are taken from what `datasets` writes into each table.

    Args:
        shown: What to call the source in errors.
        name: Of the data set.
        split_of: The tables' paths or addresses, and the split that each belongs to.
        scratch: Folder for the images.
        columns: Which.
        class_names: Names of the labels 0, 1, ... where the tables have none.

    Raises:
        UserError: A split or column is missing, a row has no label, or a table is damaged.
    """
    opened = {file: _Table(file, columns) for file in split_of}
    left_out = Tally()
    counts = Counter[str]()
    for file, split in split_of.items():
        if table_labels := opened[file].labels():
            # Test splits of competitions are published without labels.
            known = any(label is not None for label in table_labels)
            counts[split if known else f"{split} without labels"] += len(table_labels)
    chosen = choose_splits(shown, counts, left_out)
    store = PackedFiles(shown, scratch / "packed")
    splits = {}
    for split, called in chosen.items():
        splits[split] = LabelledFiles()
        for file in (file for file, other in split_of.items() if other == called):
            opened[file].take(splits[split], store)
    names = next((table.class_names for table in opened.values() if table.class_names), None)
    return label_source(name, store, splits, names or class_names or [], left_out)


class _Table:
    """One file.

    Attributes:
        class_names: What its description calls the labels 0, 1, ...; empty: nothing.
    """

    def __init__(self, file: str, wanted: Columns) -> None:
        self._file = file
        with open_file(file) as opened:
            schema = (
                pq.read_schema(opened) if _is_parquet(file) else pa.ipc.open_stream(opened).schema
            )
        features = _features(schema)
        self._image = wanted.image or _image_column(schema, features)
        self._label = wanted.label or _label_column(schema, features)
        for kind, column in (("image", self._image), ("label", self._label)):
            if column not in schema.names:
                what = f"no column '{column}'" if column else f"no {kind} column"
                raise UserError(
                    f"{file} has {what}; there are: {', '.join(schema.names)} (say which with "
                    f"?{kind}=COLUMN at the end of SOURCE)"
                )
        kind = schema.field(self._image).type
        self._nested = pa.types.is_struct(kind)
        if self._nested and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise UserError(
                f"{file}: column '{self._image}' holds {kind}; it must hold image files as bytes"
            )
        self.class_names: list[str] = list(features.get(self._label, {}).get("names") or [])

    def labels(self) -> list[Label | None]:
        """Returns the label of each row; None: it has none."""
        return [
            label
            for batch in self._batches(self._label)
            for label in map(self._plain, batch.column(self._label).to_pylist())
        ]

    def take(self, split: LabelledFiles, store: PackedFiles) -> None:
        """Copies the images into a store."""
        row = 0
        # Tables of one name may lie in several folders.
        below = PurePosixPath(str(len(store.names))) / shown_name(self._file)
        for batch in self._batches(self._image, self._label):
            images, labels = (batch.column(each) for each in (self._image, self._label))
            for image, label in zip(images, labels, strict=True):
                known = self._plain(label.as_py())
                if known is None:
                    raise UserError(f"{self._file}: row {row} (from 0) has no label")
                name = below / str(row)
                value = image.get("bytes") if self._nested and image.is_valid else image
                content = None if value is None else value.as_py()
                if content is None:
                    store.add_other(name, _NO_BYTES)
                else:
                    store.add(name, [content])
                split.add(name, known)
                row += 1

    def _batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        with open_file(self._file) as opened:
            if not _is_parquet(self._file):
                yield from pa.ipc.open_stream(opened)
                return
            table = pq.ParquetFile(opened, buffer_size=_BUFFER)
            # A copy of its own is as large as a row group, which may be the whole file.
            yield from table.iter_batches(_ROWS, columns=list(columns), use_threads=False)

    def _plain(self, label: object) -> Label | None:
        if label is None or label == -1 or label == "":
            return None
        if isinstance(label, bool | int | str):
            return str(label) if isinstance(label, bool) else label
        raise UserError(
            f"{self._file}: column '{self._label}' holds {label!r:.40}; a label is a whole number "
            "or a name"
        )


def _is_parquet(file: str) -> bool:
    return not file.partition("?")[0].endswith(".arrow")


def _features(schema: pa.Schema) -> Features:
    """Returns what `datasets` says about the columns, by name."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        found = described["info"]["features"]
        return {name: each for name, each in found.items() if isinstance(each, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _image_column(schema: pa.Schema, features: Features) -> str:
    described = [name for name, each in features.items() if each.get("_type") == "Image"]
    binary = [
        field.name
        for field in schema
        if (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        or pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
    ]
    return _only(described, _IMAGE_NAMES) or _only(binary, _IMAGE_NAMES)


def _label_column(schema: pa.Schema, features: Features) -> str:
    described = [name for name, each in features.items() if each.get("_type") == "ClassLabel"]
    named = [name for name in _LABEL_NAMES if name in schema.names]
    return _only(described, _LABEL_NAMES) or (named[0] if named else "")


def _only(found: list[str], known: tuple[str, ...]) -> str:
    if len(found) == 1:
        return found[0]
    return next((name for name in known if name in found), "")
