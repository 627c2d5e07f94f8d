"""Corruption sets as their authors publish them: CIFAR-10-C, Tiny-ImageNet-C and their like.

Hendrycks and Dietterich, ICLR 2019. Two layouts: `KIND.npy` (uint8 `(5 n, H, W, C)`, severity 1
first) with `labels.npy`; or class folders, `KIND/SEVERITY/CLASS/*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import nn

from dynat_ray.data import balanced_subset
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.shown_text import shown_text

_SEVERITIES = 5
_LABELS = "labels.npy"
_IMAGES = (".jpeg", ".jpg", ".png")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class CorruptedImages:
    """One corruption at one severity.

    Attributes:
        kind: Such as `fog`.
        severity: From 1 (weakest) to 5.
        labels: int64 `(n,)`.
        read: Returns the images at some places, uint8 `(m, H, W, C)`.
    """

    kind: str
    severity: int
    labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], Pixels]


def read_corruption_set(folder: Path, classes: Sequence[str]) -> list[CorruptedImages]:
    """Returns what a folder holds, by kind and severity.

    Args:
        folder: Of one of the two layouts.
        classes: Names of the data set's classes, in the order of its labels.

    Raises:
        UserError: It is of neither layout, or files do not fit together.
    """
    if (folder / _LABELS).is_file():
        found = list(_arrays(folder))
    else:
        found = list(_class_folders(folder, classes))
    if not found:
        raise UserError(
            f"--corruptions-from {folder} holds neither KIND.npy with {_LABELS} (CIFAR-10-C) nor "
            "KIND/SEVERITY/CLASS/ with images (Tiny-ImageNet-C, ImageNet-C)"
        )
    for each in found:
        if len(each.labels) == 0 or each.labels.min() < 0 or each.labels.max() >= len(classes):
            raise UserError(
                f"--corruptions-from {folder}: labels of {each.kind} do not lie in "
                f"[0, {len(classes) - 1}], as those of the data set do"
            )
    return found


def measure_corruption_files(
    model: nn.Module,
    corrupted: Sequence[CorruptedImages],
    shape: tuple[int, ...],
    *,
    samples: int,
    batch_size: int,
) -> dict[str, Any]:
    """Returns accuracies in percent by corruption and severity, and their mean, JSON values.

    Args:
        model: On its device.
        corrupted: From `read_corruption_set`.
        shape: `(C, H, W)` of the images that the model takes.
        samples: Class-balanced number of images of each; 0: all.
        batch_size: Images per forward pass.

    Raises:
        UserError: Images have another size.
    """
    by_kind: dict[str, dict[str, float]] = {}
    count = 0
    with exact(model) as ready, torch.no_grad():
        for each in corrupted:
            places = balanced_subset(each.labels, min(samples, len(each.labels)))
            right = 0
            for start in range(0, len(places), batch_size):
                some = places[start : start + batch_size]
                images = torch.from_numpy(each.read(some)).permute(0, 3, 1, 2)
                if tuple(images.shape[1:]) != shape:
                    raise UserError(
                        f"--corruptions-from: images of {each.kind} have shape "
                        f"{tuple(images.shape[1:])} (channels, height, width), those of the data "
                        f"set {shape}"
                    )
                logits = ready((images.float() / 255).to(device_of(ready)))
                right += int((logits.argmax(dim=1).cpu().numpy() == each.labels[some]).sum())
            count = len(places)
            accuracy = round(100 * right / count, 3)
            by_kind.setdefault(each.kind, {})[str(each.severity)] = accuracy
    means = {kind: float(np.mean(list(found.values()))) for kind, found in by_kind.items()}
    return {
        "mean": round(float(np.mean(list(means.values()))), 3),
        "samples": count,
        "accuracy": {
            kind: {**found, "mean": round(means[kind], 3)} for kind, found in by_kind.items()
        },
    }


def _arrays(folder: Path) -> Iterator[CorruptedImages]:
    labels = _load(folder / _LABELS)
    for file in sorted(folder.glob("*.npy")):
        if file.name == _LABELS:
            continue
        images = _load(file)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) % _SEVERITIES:
            raise UserError(
                f"{file} has {images.dtype} of shape {images.shape}; it must be uint8 "
                f"(5 n, H, W, C), {_SEVERITIES} severities of n images"
            )
        count = len(images) // _SEVERITIES
        if labels.ndim != 1 or len(labels) not in (count, len(images)):
            raise UserError(
                f"{folder / _LABELS} has shape {labels.shape}, but {file.name} has {len(images)} "
                f"images; give a label for each, or for each of the {count} of a severity"
            )
        for severity in range(_SEVERITIES):
            rows = slice(severity * count, (severity + 1) * count)
            own = labels[rows] if len(labels) == len(images) else labels
            part = images[rows]
            yield CorruptedImages(
                file.stem,
                severity + 1,
                own.astype(np.int64),
                lambda places, part=part: np.array(part[places]),  # type: ignore[misc]
            )


def _load(file: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} can't be read as an array: {error}") from None
    return found


def _class_folders(folder: Path, classes: Sequence[str]) -> Iterator[CorruptedImages]:
    names = {name: label for label, name in enumerate(classes)}
    for kind in sorted(path for path in folder.glob("*") if path.is_dir()):
        for severity in range(1, _SEVERITIES + 1):
            files: list[Path] = []
            labels: list[int] = []
            inside = kind / str(severity)
            for part in sorted(path for path in inside.glob("*") if path.is_dir()):
                if part.name not in names:
                    raise UserError(
                        f"--corruptions-from: {part} is no class of the data set, whose classes "
                        f"are {shown_text(', '.join(classes), 80)}"
                    )
                own = sorted(file for file in part.iterdir() if file.suffix.lower() in _IMAGES)
                files += own
                labels += [names[part.name]] * len(own)
            if files:
                yield CorruptedImages(
                    kind.name,
                    severity,
                    np.array(labels, dtype=np.int64),
                    lambda places, files=tuple(files): _read_files(  # type: ignore[misc]
                        [files[place] for place in places]
                    ),
                )


def _read_files(files: Sequence[Path]) -> Pixels:
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB")))
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"{file} can't be read as an image: {error}") from None
    if len({image.shape for image in images}) > 1:
        raise UserError(f"--corruptions-from: images in {files[0].parent} differ in size")
    return np.stack(images)
