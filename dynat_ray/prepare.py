"""The command `python -m dynat_ray.prepare`: from a source to a data-set folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dynat_ray.cli import ArgumentParser, run
from dynat_ray.errors import UserError
from dynat_ray.interrupt import going_on
from dynat_ray.object_store import is_address, split_address
from dynat_ray.prepare_options import PrepareOptions
from dynat_ray.shown_text import shown_text
from dynat_ray.user_path import user_path

if TYPE_CHECKING:
    from dynat_ray.data import DatasetInfo


def main(arguments: Sequence[str]) -> Path | str:
    """Prepares a data set; returns its folder or address."""
    parser = ArgumentParser(
        prog="python -m dynat_ray.prepare",
        description="Turns images into a data set that training reads fast.",
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
    address = options.out if is_address(options.out) else ""
    if address and address.partition("?")[0].rstrip("/").count("/") < 3:
        raise UserError(f"--out is {address}, a whole bucket; give s3://BUCKET/NAME")
    given = {name: value for name, value in vars(options).items() if name not in ("source", "out")}
    PrepareOptions(**given)

    # PyTorch takes seconds to import: after the options are known to be right.
    from dynat_ray.data.preparing import prepare_dataset

    with ExitStack() as stack:
        if address:
            from dynat_ray.storage.lease import store_lease

            stack.enter_context(store_lease(*split_address(address), "data set", wait=True))
            stack.enter_context(going_on())
        info = prepare_dataset(options.source, options.out, **given)
    print(_summary(info), *info.account.lines(), sep="\n", file=sys.stderr)
    return address or user_path(options.out).resolve()


def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder or s3:// address to write to")
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
    add(
        "--shuffle",
        action="store_true",
        help="store training images in random order, as data.node_share part needs it",
    )


def _summary(info: DatasetInfo) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    shape = " x ".join(str(each) for each in info.size) if info.size else "various sizes"
    colour = "grey" if info.channels == 1 else "RGB"
    name = shown_text(info.name, 60)
    return f"{name}: {info.num_classes} classes, {counts}, {shape} {colour}"


if __name__ == "__main__":
    run(main)
