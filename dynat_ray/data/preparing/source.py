"""What a source of images gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing.image_sets import ImageSet


@dataclass(kw_only=True)
class Source:
    """Images and labels of all splits.

    Attributes:
        name: Short name of the data set.
        classes: Class names; a label is a position in this list.
        splits: `train`, and `test` unless the source is generated training data.
        left_out: What is there, but is none of the images.
        notes: What else is to be said of it, a sentence each.
    """

    name: str
    classes: list[str]
    splits: dict[str, ImageSet]
    left_out: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)
