"""`python -m dynat_ray.runs`: a table of the runs, searches and comparisons in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynat_ray import cli
from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path


def main(argv: Sequence[str]) -> Path | str:
    """Prints the table; returns the page that was written, or the folder."""
    options = _parser().parse_args(argv)

    from dynat_ray.object_store import is_address
    from dynat_ray.report.runs_index import read_rows, runs_table, write_index
    from dynat_ray.storage.listing import listed
    from dynat_ray.storage.places import default_place

    place = options.folder or default_place()
    if options.html and is_address(place):
        raise UserError("--html is for a folder: its links lead to the reports there")
    with listed(place) as folder:
        if not folder.is_dir():
            raise UserError(f"there is no folder {place}")
        rows = read_rows(folder)
        print(f"{runs_table(rows)}\n" if rows else f"no runs in {place}\n")
        if options.html:
            return write_index(folder.resolve(), rows)
        return place if is_address(place) else user_path(place).resolve()


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        prog="python -m dynat_ray.runs",
        description="Lists runs, searches and comparisons with their results and states.",
    )
    add = parser.add_argument
    add("folder", nargs="?", metavar="FOLDER", help="or s3:// address (default: where runs go)")
    add("--html", action="store_true", help="write index.html there, with links to the reports")
    return parser


if __name__ == "__main__":
    cli.run(main)
