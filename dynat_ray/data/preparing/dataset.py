"""From a source to a data-set folder."""

from __future__ import annotations

import hashlib
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dynat_ray.data.account import Account, Tally, listed
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.info import LARGEST_TENSOR_FILE, DatasetInfo, describe_file
from dynat_ray.data.preparing.class_names import notes_on_order, order_of, warnings_on_names
from dynat_ray.data.preparing.image_files import TRANSPARENT, BadImage, Wanted
from dynat_ray.data.preparing.inspection import UNREADABLE, Inspection, guarded
from dynat_ray.data.preparing.parallel import ordered_map
from dynat_ray.data.preparing.part_sending import PartSender
from dynat_ray.data.preparing.pixel_checks import PixelChecks, PixelMarks, mark
from dynat_ray.data.preparing.preview import Preview
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.sources import open_source
from dynat_ray.data.preparing.storing import (
    Encoded,
    Layout,
    SplitWriter,
    encode,
    moments,
    stored_size,
)
from dynat_ray.data.preparing.work_folder import sending_folder, work_folder
from dynat_ray.data.subsets import Indices, balanced_subset
from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address
from dynat_ray.prepare_options import PrepareOptions
from dynat_ray.user_path import user_path

_SMALL_SIDE = 96
"""Images up to this many pixels a side are stored raw, however many there are."""
_MAX_SIDE = 500
"""Longest side of images stored as JPEG."""
_PREVIEW = "preview.png"
_SHUFFLING_SEED = 0

Positions = dict[str, Indices]


def prepare_dataset(
    source: str,
    out: Path | str,
    *,
    progress: bool = True,
    **options: Any,
) -> DatasetInfo:
    """Reads a source and writes a data set: a folder, whole or not at all, or parts in a store.

    Images of one size are stored with exact pixels as long as that takes up to 2 GiB or they are
    small; others as JPEG with the longest side at most 500 pixels.

    Args:
        source: See `dynat_ray.data.preparing.sources`.
        out: Folder to make, or address of an object store. A data set that is there already is
            replaced.
        progress: Show a progress bar on stderr.
        **options: What to do with the images, see `PrepareOptions`.

    Returns:
        What was written.

    Raises:
        UserError: The source is not what it should be, an image is unreadable, there is no room or
            no permission to write, or the store does not answer.
    """
    asked = PrepareOptions(**options)
    if is_address(str(out)):
        with sending_folder(str(out)) as (folder, scratch, sender):
            found = open_source(source, scratch)
            info = _Preparation(found, folder, asked, progress, sender).run(source)
            sender.finish(folder, info)
        return info
    with work_folder(user_path(out)) as (folder, scratch):
        info = _Preparation(open_source(source, scratch), folder, asked, progress).run(source)
        for file in sorted(folder.iterdir()):
            if file.name != _PREVIEW:
                info.files[file.name] = describe_file(file)
        info.save(folder)
    return info


@dataclass(frozen=True)
class _Read:
    """An image, ready to be stored, and what there is to know of it."""

    encoded: Encoded
    converted: tuple[str, ...]
    marks: PixelMarks


class _Preparation:
    """One run over the images of a source."""

    def __init__(
        self,
        source: Source,
        folder: Path,
        options: PrepareOptions,
        progress: bool,
        sender: PartSender | None = None,
    ) -> None:
        self._source = source
        self._folder = folder
        self._sender = sender
        self._options = options
        self._progress = progress
        splits = source.splits
        self._checks = PixelChecks(
            {name: images.name for name, images in splits.items()}, options.drop_duplicates
        )
        self._unreadable = Tally()
        self._converted = Tally()

    def run(self, source: str) -> DatasetInfo:
        splits = self._source.splits
        chosen = {
            name: balanced_subset(images.labels, self._options.limit)
            for name, images in splits.items()
        }
        with self._bar("looking", sum(map(len, chosen.values()))) as bar:
            seen = Inspection(self._source, chosen, self._options, bar.update)
        self._unreadable.include(seen.left_out)
        if self._options.shuffle:
            generator = np.random.default_rng(_SHUFFLING_SEED)
            seen.chosen["train"] = generator.permutation(seen.chosen["train"])
        wanted = Wanted(
            channels=seen.channels,
            side=self._options.size or 0,
            white=seen.deep.white(self._options.bit_depth),
            background=self._options.background_colour,
        )
        layout = _choose_layout(wanted, seen.sizes, max(len(each) for each in seen.chosen.values()))
        labels = {name: splits[name].labels[each] for name, each in seen.chosen.items()}
        preview = Preview(labels, self._source.classes)
        writers, digests = {}, {}
        # Test images first: training images may be left out for being among them.
        for name in sorted(splits, key=lambda name: name == "train"):
            writers[name] = self._store(name, seen, wanted, layout, preview)
            digests[name] = writers[name].close()
        counts = {name: len(writers[name].labels) for name in splits}
        preview.save(self._folder / _PREVIEW, f"{self._source.name}: {_listed(counts)}")
        mean, std = moments(writers["train"].levels)
        return DatasetInfo(
            name=self._source.name,
            source=source,
            classes=self._source.classes,
            channels=layout.channels,
            size=layout.size,
            storage=layout.storage,
            max_side=layout.max_side,
            counts=counts,
            mean=mean,
            std=std,
            checksum=hashlib.sha256("".join(digests[n] for n in splits).encode()).hexdigest(),
            skipped=sum(each.count for each in self._unreadable.findings()),
            options=self._options.words(),
            class_order=order_of(self._source.classes),
            account=self._account(seen, chosen, wanted, {n: writers[n].labels for n in splits}),
        )

    def _store(
        self, name: str, seen: Inspection, wanted: Wanted, layout: Layout, preview: Preview
    ) -> SplitWriter:
        images, positions = self._source.splits[name], seen.chosen[name]
        writer = SplitWriter(self._folder, name, layout, len(positions), self._sender)

        def read(number: int) -> _Read:
            decoded = images.read(int(positions[number]), wanted)
            if preview.wants(name, number):
                preview.add(name, number, decoded.pixels)
            encoded = encode(decoded.pixels, layout)
            return _Read(encoded, decoded.converted, mark(decoded.pixels))

        with (
            self._bar(name, len(positions)) as bar,
            closing(ordered_map(guarded(read), range(len(positions)))) as results,
        ):
            for number, found in enumerate(results):
                bar.update()
                writer.pass_by(number)
                if isinstance(found, BadImage):
                    self._refuse(found)
                    continue
                position = int(positions[number])
                label = int(images.labels[position])
                for what in found.converted:
                    self._converted.add(what, images.name(position))
                if self._checks.accept(name, position, label, found.marks):
                    writer.add(found.encoded, label)
                else:
                    preview.discard(name, number)
        stored = np.bincount(writer.labels, minlength=len(self._source.classes))
        for empty in np.flatnonzero(stored == 0):
            raise UserError(
                f"class '{self._source.classes[empty]}' has no usable {name} images; give more, or "
                "a larger --limit"
            )
        return writer

    def _account(
        self, seen: Inspection, chosen: Positions, wanted: Wanted, labels: dict[str, list[int]]
    ) -> Account:
        classes, deep = self._source.classes, seen.deep
        counts = {
            split: dict(
                zip(classes, np.bincount(each, minlength=len(classes)).tolist(), strict=True)
            )
            for split, each in labels.items()
        }
        left_out, converted = Tally(), Tally()
        for tally in (self._source.left_out, self._unreadable, self._checks.dropped):
            left_out.include(tally)
        for tally in (seen.converted, self._converted):
            converted.include(tally)
        described = converted.findings() + deep.described(wanted.white)
        for each in described:
            if each.what == TRANSPARENT:
                each.what = f"images with transparency laid on {self._options.background}"
        warnings = [f"--skip-bad left out {loss}" for loss in seen.losses(chosen)]
        warnings += warnings_on_names(classes)
        warnings += [each for each in [deep.darkness(wanted.white)] if each]
        warnings += self._checks.warnings()
        warnings += [
            f"classes of a single {split} image: {len(few):,} of {len(classes):,} "
            f"({listed(few, len(few))})"
            for split, each in counts.items()
            if (few := [name for name, count in each.items() if count == 1])
        ]
        return Account(
            counts=counts,
            left_out=left_out.findings(),
            converted=described,
            notes=self._source.notes + notes_on_order(classes),
            warnings=warnings,
        )

    def _refuse(self, bad: BadImage) -> None:
        if not self._options.skip_bad:
            raise UserError(f"cannot read image {bad}; repair it, or leave such out: --skip-bad")
        self._unreadable.add(UNREADABLE, str(bad))

    def _bar(self, text: str, total: int) -> tqdm[None]:
        return tqdm(
            total=total,
            desc=text,
            unit="img",
            file=sys.stderr,
            disable=None if self._progress else True,
        )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in counts.items())


def _choose_layout(wanted: Wanted, sizes: set[tuple[int, int]], count: int) -> Layout:
    problem, channels = ffcv_problem(), wanted.channels
    if wanted.side:
        sizes = {(wanted.side, wanted.side)}
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
