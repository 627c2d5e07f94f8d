"""Images whose labels stand beside them: numbers, names, or numbers that a list gives names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing.class_names import sort_classes
from dynat_ray.data.preparing.file_stores import FileStore
from dynat_ray.data.preparing.image_sets import FileImages
from dynat_ray.data.preparing.source import Source
from dynat_ray.errors import UserError

Label = int | str


@dataclass
class LabelledFiles:
    """Images of one split.

    Attributes:
        files: Their names in the store.
        labels: A number or name for each.
    """

    files: list[PurePosixPath] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def add(self, file: PurePosixPath, label: Label) -> None:
        """Appends an image."""
        self.files.append(file)
        self.labels.append(label)


def label_source(
    name: str,
    store: FileStore,
    splits: dict[str, LabelledFiles],
    names: Sequence[str] = (),
    left_out: Tally | None = None,
) -> Source:
    """Makes labelled images a source.

    Args:
        name: Of the data set.
        store: Where the images are.
        splits: `train` and `test`.
        names: Of the classes whose numbers are the labels; empty: labels are names, sorted as text
            or, if all of them are numbers, by value.
        left_out: What is there, but is none of the images.

    Raises:
        UserError: A label is none of the names.
    """
    labels = {label for each in splits.values() for label in each.labels}
    if names:
        classes = list(names)
        number: dict[Label, int] = {name: place for place, name in enumerate(classes)}
        number |= {place: place for place in range(len(classes))}
        if odd := [label for label in labels if label not in number]:
            raise UserError(
                f"{store.shown}: {odd[0]!r} is a label, and none of its {len(classes)} classes"
            )
    else:
        classes = sort_classes({str(label) for label in labels})
        places = {name: place for place, name in enumerate(classes)}
        number = {label: places[str(label)] for label in labels}
    return Source(
        name=name,
        classes=classes,
        splits={
            split: FileImages(store, each.files, [number[label] for label in each.labels])
            for split, each in splits.items()
        },
        left_out=left_out or Tally(),
    )
