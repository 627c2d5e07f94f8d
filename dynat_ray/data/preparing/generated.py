"""Generated training images in an npz file (arrays `image` and `label`)."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dynat_ray.data.preparing.archives import unpack_member
from dynat_ray.data.preparing.image_sets import ArrayImages
from dynat_ray.errors import UserError

_MOST_IMAGES = 2**27
"""Their labels and places, which are held in memory, then take 2 GiB."""


def read_generated(path: Path, scratch: Path) -> tuple[list[str], ArrayImages]:
    """Opens an npz file without loading all of it: its arrays are unpacked and mapped.

    Args:
        path: The file; `image` is uint8 `(N, H, W, 3)`, `(N, H, W, 1)` or `(N, H, W)`, `label`
            holds N integers from 0 to K - 1, each of which occurs.
        scratch: Folder for the unpacked arrays.

    Returns:
        Class names (the labels as text), and the images.

    Raises:
        UserError: An array is missing or not of this form.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an npz file")
    images = _open_array(path, "image", scratch)
    labels = _open_array(path, "label", scratch)
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{path}: 'image' is {images.dtype} {images.shape}; it must be uint8 (N, H, W, 3)"
        )
    _, height, width, _ = images.shape
    if len(images) > _MOST_IMAGES or height * width > 2 * (Image.MAX_IMAGE_PIXELS or math.inf):
        raise UserError(f"{path}: {len(images):,} images of {height:,} x {width:,} are too many")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{path}: 'label' is {labels.dtype} {labels.shape}; it must be {len(images)} integers, "
            "one per image"
        )
    if len(images) == 0 or 0 in images.shape:
        raise UserError(f"{path} has no images")
    present = np.unique(labels)
    if not np.array_equal(present, np.arange(len(present))):
        odd = next(int(each) for each in present if not 0 <= each < len(present))
        raise UserError(
            f"{path}: label {odd} is out of range; with {len(present)} different labels they must "
            f"run from 0 to {len(present) - 1}"
        )
    return [str(each) for each in present], ArrayImages(images, labels)


def _open_array(path: Path, name: str, scratch: Path) -> NDArray[Any]:
    target = scratch / f"{name}.npy"
    if not unpack_member(path, f"{name}.npy", target):
        raise UserError(f"{path} has no array '{name}'; it needs 'image' and 'label'")
    try:
        _require_whole(target)
        return np.load(target, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except Exception as error:  # A header is parsed as Python, where anything may be wrong.
        raise UserError(f"{path}: cannot read array '{name}' ({error})") from None


def _require_whole(file: Path) -> None:
    """Raises `ValueError` unless a .npy file has as many bytes as its header says.

    Headers of later versions than the first, which such arrays never need, may be gigabytes long
    and are read at once.
    """
    with file.open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        if version != (1, 0):
            raise ValueError(f"its format is {version}, that of image arrays (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        found = file.stat().st_size - opened.tell()
    declared = math.prod(shape) * dtype.itemsize
    if declared != found or min(shape, default=0) < 0:
        raise ValueError(f"it declares {declared:,} bytes and has {found:,}")
