"""Extra (generated) training images, of which every batch takes a fixed part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynat_ray.data.info import DatasetInfo, read_info, require_split
from dynat_ray.errors import UserError


@dataclass(frozen=True)
class ExtraImages:
    """Where extra images come from (Wang et al., ICML 2023).

    Attributes:
        path: Prepared folder; its training split is used.
        fraction: Part in [0, 1) of each batch that comes from there.
    """

    path: Path | str
    fraction: float


def load_extra_info(folder: Path, info: DatasetInfo) -> DatasetInfo:
    """Reads `dataset.json` of extra images.

    Args:
        folder: Prepared folder.
        info: The data set that they are to extend.

    Raises:
        UserError: The folder is missing or damaged, or its classes or images are others.
    """
    extra = read_info(folder)
    require_split(extra, folder, "train")
    if extra.num_classes > info.num_classes:
        raise UserError(
            f"extra data {folder} has labels up to {extra.num_classes - 1}, but the data set has "
            f"{info.num_classes} classes"
        )
    # Labels of generated images are numbers; what they mean is not in the file.
    if not extra.source.startswith("npz:") and extra.classes != info.classes[: extra.num_classes]:
        number, name, own = next(
            (number, *names)
            for number, names in enumerate(zip(extra.classes, info.classes, strict=False))
            if names[0] != names[1]
        )
        raise UserError(
            f"extra data {folder} calls class {number} '{name}', the data set calls it '{own}'; "
            "prepare the extra data with the data set's class folders"
        )
    if (extra.channels, extra.size) != (info.channels, info.size):
        raise UserError(
            f"extra data {folder} has images of {extra.size} with {extra.channels} channels, the "
            f"data set {info.size} with {info.channels}; prepare it with --size"
        )
    return extra
