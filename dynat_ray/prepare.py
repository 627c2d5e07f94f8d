"""The command `python -m dynat_ray.prepare`: from a source to a data-set folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynat_ray.cli import ArgumentParser, run
from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address
from dynat_ray.prepare_options import PrepareOptions
from dynat_ray.shown_text import shown_text
from dynat_ray.user_path import user_path

if TYPE_CHECKING:
    from dynat_ray.data import DatasetInfo


def main(arguments: Sequence[str]) -> Path:
    """Prepares a data set; returns its folder."""
    parser = ArgumentParser(
        prog="python -m dynat_ray.prepare",
        description="Turns images into a data-set folder that training reads fast.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder:PATH (class folders under train/ and val/ or test/, or a .tar, .tar.xz or "
        ".zip of such), hf:NAME or hf:FOLDER (Hugging Face), wds:SHARDS (WebDataset), "
        "parquet:FILES, csv:FILE (path, label, split), npz:PATH (generated images: arrays image "
        "and label), digits, mnist, cifar10, cifar100, svhn, tiny-imagenet (each also NAME:PATH, a "
        "copy), or imagenet:PATH",
    )
    _add_options(parser)
    options = parser.parse_args(arguments)
    if is_address(options.out):
        raise UserError(
            f"--out is {options.out}, but prepared data lie in a folder, from where training maps "
            "them into memory; give one that all machines of the cluster share"
        )
    folder = Path(options.out)
    given = {name: value for name, value in vars(options).items() if name not in ("source", "out")}
    PrepareOptions(**given)

    # PyTorch takes seconds to import: after the options are known to be right.
    from dynat_ray.data.preparing import prepare_dataset

    info = prepare_dataset(options.source, folder, **given)
    print(_summary(info), *info.account.lines(), sep="\n", file=sys.stderr)
    return user_path(folder).resolve()


def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--size", type=int, metavar="N", help="resize the shorter side to N, crop the centre")
    add("--limit", type=int, default=0, metavar="N", help="a class-balanced part of each split")
    add(
        "--bit-depth",
        type=int,
        metavar="N",
        help="bits of the values in images of more than 8, such as 12 (default: as many as the "
        "largest value of all images takes)",
    )
    add(
        "--background",
        default="white",
        metavar="COLOUR",
        help="behind transparent images: a name or #RRGGBB (default: white)",
    )
    add("--skip-bad", action="store_true", help="leave out unreadable images and count them")
    add(
        "--drop-duplicates",
        action="store_true",
        help="leave out training images whose pixels another one or a test image has",
    )


def _summary(info: DatasetInfo) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    shape = " x ".join(str(each) for each in info.size) if info.size else "various sizes"
    colour = "grey" if info.channels == 1 else "RGB"
    name = shown_text(info.name, 60)
    return f"{name}: {info.num_classes} classes, {counts}, {shape} {colour}"


if __name__ == "__main__":
    run(main)
