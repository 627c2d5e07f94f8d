"""The command `python -m dynat_ray.prepare`: from a source to a data-set folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dynat_ray.cli import ArgumentParser, run
from dynat_ray.data import DatasetInfo
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.mirror import is_address
from dynat_ray.user_path import user_path


def main(arguments: Sequence[str]) -> Path:
    """Prepares a data set; returns its folder."""
    parser = ArgumentParser(
        prog="python -m dynat_ray.prepare",
        description="Turns images into a data-set folder that training reads fast.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="digits, mnist, cifar10, cifar100, svhn, tiny-imagenet, imagenet:PATH, folder:PATH "
        "(class folders under train/ and val/ or test/, or a .tar, .tar.xz or .zip of such), or "
        "npz:PATH (generated images: arrays image and label)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--size", type=int, metavar="N", help="resize the shorter side to N, crop the centre"
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="a class-balanced part of each split"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out unreadable images and count them"
    )
    options = parser.parse_args(arguments)
    if is_address(options.out):
        raise UserError(
            f"--out is {options.out}, but prepared data lie in a folder, from where training maps "
            "them into memory; give one that all machines of the cluster share"
        )
    folder = Path(options.out)
    info = prepare_dataset(
        options.source,
        folder,
        size=options.size,
        limit=options.limit,
        skip_bad=options.skip_bad,
    )
    print(_summary(info), file=sys.stderr)
    return user_path(folder).resolve()


def _summary(info: DatasetInfo) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    shape = " x ".join(str(each) for each in info.size) if info.size else "various sizes"
    colour = "grey" if info.channels == 1 else "RGB"
    skipped = f", {info.skipped} unreadable left out" if info.skipped else ""
    name = shown_text(info.name, 60)
    return f"{name}: {info.num_classes} classes, {counts}, {shape} {colour}{skipped}"


if __name__ == "__main__":
    run(main)
