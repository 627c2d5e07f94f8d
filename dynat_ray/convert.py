"""`python -m dynat_ray.convert`: a file of weights to a model folder of ours and timm's."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dynat_ray import cli
from dynat_ray.shown_text import shown_text
from dynat_ray.user_path import require_there, user_path
from dynat_ray.value_types import Positive, PositiveInt, check_value


def main(argv: Sequence[str]) -> Path:
    """Converts what the arguments name; returns the model folder that was written."""
    options = _parser().parse_args(argv)
    check_value("--size", options.size, PositiveInt | None)
    mean = check_value("--mean", options.mean or [], list[float])
    std = check_value("--std", options.std or [], list[Positive])
    require_there("the file", options.file)
    folder = cli.new_folder(options.out)

    # Seconds to import: after the options are known to be right.
    from dynat_ray.models import save_model
    from dynat_ray.models.importing.conversion import model_from_file

    model, notes = model_from_file(
        user_path(options.file),
        options.arch,
        options.kwargs,
        size=options.size,
        mean=mean,
        std=std,
    )
    for note in notes:
        print(shown_text(note, 500), file=sys.stderr)
    save_model(model, folder)
    height, width = model.size
    built = f" {model.arguments}" if model.arguments else ""
    print(
        f"{model.name}{built}: {model.num_classes} classes, {model.channels}x{height}x{width}, "
        f"normalised by {_rounded(model.mean.flatten())}, {_rounded(model.std.flatten())}",
        file=sys.stderr,
    )
    return folder.resolve()


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        prog="python -m dynat_ray.convert",
        description="Makes a model folder of a file of weights that others have published. The "
        "file is read without running what code it may hold.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="state dict: .safetensors, .pt, .pth, .ckpt or .tar")
    cli.add_architecture_options(parser, required=True)
    add("--out", required=True, metavar="DIR", help="model folder to write")
    add("--size", type=int, metavar="N", help="side of an image (default: the network's own)")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        add(
            f"--{name}",
            metavar="R,G,B",
            help=f"{what} of each channel in [0, 1] pixels (default: what the file says)",
        )
    return parser


def _rounded(values: Iterable[float]) -> str:
    return ", ".join(f"{float(value):.4g}" for value in values)


if __name__ == "__main__":
    cli.run(main)
