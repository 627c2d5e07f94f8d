"""The training images that an attack moves most, with pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dynat_ray.atomic_files import atomic_write
from dynat_ray.data import BatchPlan, ReadingOptions, build_loader, kind_here
from dynat_ray.errors import UserError
from dynat_ray.report.reading import Columns, Run
from dynat_ray.storage.links import inner_folder

FOLDER = "fragile"
COUNT = 24
# Sides in pixels between which pictures are stored: tiny images are enlarged, large ones reduced.
_SMALLEST_SIDE, _LARGEST_SIDE = 96, 224


@dataclass(frozen=True)
class FragileImage:
    """One of the most fragile training images.

    Attributes:
        index: In the training split.
        label: True class.
        predicted: Class without attack; None where the method does not know it.
        budget: In [0, 1] pixels; None likewise.
        picture: `src` of an HTML image; empty where the data set is not there.
    """

    index: int
    label: int
    predicted: int | None
    budget: float | None
    picture: str = ""


def rank_by_fragility(samples: Columns) -> tuple[NDArray[np.int64], str]:
    """Returns all rows, the most fragile first, and what they are ranked by.

    The method's own measure comes first; a method that has none ranks by how far the attack got,
    or, without an attack, by how close the second class is. Samples that a method left unattacked,
    since they are wrong as they are, lie beyond the boundary: they come before all others.
    """
    rankings = (
        (
            "fragility",
            -1,
            "how far the prediction moves per unit of attack, nearer the boundary more",
        ),
        ("adversarial_gap", -1, "how far the attack puts another class before the true one"),
        ("confidence_gap", 1, "how close the second class is to the first"),
    )
    for name, sign, words in rankings:
        if name in samples:
            values = sign * samples[name].astype(np.float64)
            if name == "fragility" and (unattacked := samples["eps"] == 0).any():
                # By how much the wrong class is ahead; below all measures, which are 0 at most.
                values = np.where(unattacked, -np.inf, values)
                order = np.lexsort((-samples["adversarial_gap"], values))
                return order, f"wrong without an attack first; then {words}"
            return np.argsort(values, kind="stable"), words
    return np.empty(0, dtype=np.int64), ""


@dataclass(frozen=True)
class Fragility:
    """How fragile training images were in an epoch.

    Attributes:
        epoch: Counted from 1.
        words: What they are ranked by.
        index: Places in the training split, ascending, `(n,)`.
        rank: 0 for the most fragile, `(n,)`.
    """

    epoch: int
    words: str
    index: NDArray[np.int64]
    rank: NDArray[np.int64]

    def ranks_of(self, index: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Returns which images have a rank, and the ranks of those."""
        places = np.searchsorted(self.index, index).clip(max=len(self.index) - 1)
        known = self.index[places] == index
        return known, self.rank[places[known]]


def last_fragility(run: Run) -> Fragility | None:
    """Returns the ranks of a run's last epoch; None where it has none."""
    epoch, samples = run.last_samples()
    order, words = rank_by_fragility(samples)
    if len(order) == 0:
        return None
    index, rank = samples["index"].astype(np.int64), np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    by_index = np.argsort(index)
    return Fragility(epoch + 1, words, index[by_index], rank[by_index])


def find_fragile(run: Run, samples: Columns, count: int = COUNT) -> tuple[list[FragileImage], str]:
    """Returns the most fragile training images, and what they are ranked by.

    Their pictures are also kept as PNG files in the run's folder `fragile/`, replacing older ones.

    Args:
        run: The run.
        samples: Per-sample values of an epoch.
        count: How many at most.
    """
    order, words = rank_by_fragility(samples)
    rows = order[:count]
    if len(rows) == 0:
        return [], words
    pictures = _store_pictures(run, samples["index"][rows].astype(np.int64))
    images = []
    for row in rows:
        index = int(samples["index"][row])
        picture = ""
        if index in pictures:
            content = base64.b64encode(pictures[index].read_bytes()).decode()
            picture = f"data:image/png;base64,{content}"
        images.append(
            FragileImage(
                index=index,
                label=int(samples["label"][row]),
                predicted=int(samples["predicted"][row]) if "predicted" in samples else None,
                budget=float(samples["eps"][row]) if "eps" in samples else None,
                picture=picture,
            )
        )
    return images, words


def enlarged(pixels: NDArray[np.uint8]) -> Image.Image:
    """Returns an image `(C, H, W)`, grey or RGB, as a picture that can be looked at.

    Tiny images keep their square pixels.
    """
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    side = max(picture.size)
    if side < _SMALLEST_SIDE:
        factor = -(-_SMALLEST_SIDE // side)
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return picture


def picture(pixels: NDArray[np.uint8]) -> str:
    """Returns an image `(C, H, W)` as the `src` of an HTML image, as large as `enlarged` has it."""
    file = io.BytesIO()
    enlarged(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _store_pictures(run: Run, indices: NDArray[np.int64]) -> dict[int, Path]:
    """Writes the pictures and returns their files by index; none where there are no images."""
    if run.info is None or "train" not in run.info.counts:
        return {}
    if indices.max() >= run.info.counts["train"]:
        return {}  # The folder was prepared again from something else.
    try:
        kind = kind_here(run.config.data.path, "train", indices)
        if kind is None and run.config.data.node_share == "stream":
            kind = "ffcv"
        elif kind is None:
            return {}  # Some pictures are no reason to fetch a large data set.
        images = _read_images(run, indices, kind)
    except (UserError, OSError, RuntimeError):
        # A damaged or half-copied data set is no reason to have no report.
        return {}
    folder = inner_folder(run.folder, FOLDER)
    for old in folder.glob("*.png"):
        old.unlink()
    files = {}
    for place, index in enumerate(indices.tolist()):
        files[index] = folder / f"{place + 1:02}_image_{index}.png"
        with atomic_write(files[index]) as partial:
            enlarged(images[index]).save(partial, format="PNG", optimize=True)
    return files


def _read_images(
    run: Run, indices: NDArray[np.int64], kind: Literal["auto", "ffcv", "memory"]
) -> dict[int, NDArray[np.uint8]]:
    assert run.info is not None
    size = run.config.data.image_size or (0 if run.info.size else _LARGEST_SIDE)
    options = ReadingOptions(
        device=torch.device("cpu"),
        kind=kind,
        streamed=run.config.data.node_share == "stream",
        image_size=size,
    )
    plan = BatchPlan(batch_size=len(indices), seed=0, shuffle=False)
    loader = build_loader(run.config.data.path, "train", indices, plan, options)
    try:
        return {
            int(index): image.contiguous().numpy()
            for batch in loader.iterate(0)
            for index, image in zip(batch.indices, batch.images, strict=True)
        }
    finally:
        loader.close()
