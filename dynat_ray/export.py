"""`python -m dynat_ray.export`: a run's model for the hub, ONNX or `torch.export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynat_ray import cli
from dynat_ray.errors import UserError
from dynat_ray.user_path import require_there


def main(argv: Sequence[str]) -> Path | str:
    """Exports what the arguments name; returns what was written, or its address on the hub."""
    options = _parser().parse_args(argv)
    folder = cli.new_folder(options.out)
    if options.push and options.to != "hub-folder":
        raise UserError("--push is for --to hub-folder: the hub takes model folders")
    require_there("the model", options.run)

    # Seconds to import: after the options are known to be right.
    from dynat_ray.exporting.graphs import write_onnx, write_program
    from dynat_ray.exporting.hub_folder import push, require_token, write_hub_folder
    from dynat_ray.exporting.origin import read_origin
    from dynat_ray.storage.places import fetched

    token = require_token() if options.push else ""
    with fetched(options.run) as run:
        origin = read_origin(run)
    if options.to == "hub-folder":
        write_hub_folder(origin, folder, options.push or f"OWNER/{folder.name}")
        return push(folder, options.push, token) if options.push else folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write, name = {
        "onnx": (write_onnx, "model.onnx"),
        "torch-export": (write_program, "model.pt2"),
    }[options.to]
    write(origin, folder / name)
    return (folder / name).resolve()


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        prog="python -m dynat_ray.export",
        description="Writes the model of a run in a form that other tools read, normalisation "
        "inside, and checks that it gives the same.",
    )
    add = parser.add_argument
    add("run", metavar="RUN_OR_MODEL", help="folder, s3:// address or hf-hub:OWNER/NAME")
    forms = ("hub-folder", "onnx", "torch-export")
    add("--to", required=True, choices=forms, help="form")
    add("--out", required=True, metavar="DIR", help="folder to write")
    add("--push", metavar="OWNER/NAME", help="send a hub-folder to the Hugging Face Hub")
    return parser


if __name__ == "__main__":
    cli.run(main)
