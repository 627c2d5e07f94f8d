"""The files that a source is made of: a folder, a list with braces or stars, in a store or here."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa
import pyarrow.fs as stores

from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address, join, open_store, store_error
from dynat_ray.user_path import user_path

_MOST_FILES = 2**20
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_AGAIN = "run the same command again"


def find_files(pattern: str, endings: tuple[str, ...]) -> list[str]:
    """Returns paths or addresses of the files that a pattern names, in order.

    Args:
        pattern: `FOLDER`, `FILE`, `x-{000..127}.tar`, `{a,b}.tar`, `x-*.tar` (not in stores), or
            several, joined by `::`, as WebDataset writes it. Also at `s3://` and `gs://`.
        endings: Of such files; a folder's others don't count.

    Raises:
        UserError: There are none, or one is missing.
    """
    found = [
        file
        for part in pattern.split("::")
        for name in expand_braces(part)
        for file in (_in_store(name, endings) if is_address(name) else _here(name, endings))
    ]
    if not found:
        raise UserError(f"{pattern} has no files that end with {' or '.join(endings)}")
    return found


def expand_braces(pattern: str) -> list[str]:
    """Returns what a shell makes of `{000..127}` and `{a,b}`, also one inside the other."""
    depth, start = 0, -1
    for place, letter in enumerate(pattern):
        if letter == "{":
            depth += 1
            start = place if depth == 1 else start
        elif letter == "}" and depth:
            depth -= 1
            if depth == 0:
                before, inside = pattern[:start], pattern[start + 1 : place]
                rest = expand_braces(pattern[place + 1 :])
                return [before + one + other for one in _alternatives(inside) for other in rest]
    return [pattern]


def _alternatives(inside: str) -> list[str]:
    if span := _RANGE.fullmatch(inside):
        first, last = int(span[1]), int(span[2])
        if last - first > _MOST_FILES:
            raise UserError(f"{{{inside}}} names over {_MOST_FILES:,} files")
        width = len(span[1]) if span[1].startswith("0") else 0
        return [str(number).zfill(width) for number in range(first, last + 1)]
    parts, depth = [""], 0
    for letter in inside:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [each for part in parts for each in expand_braces(part)]


def common_folder(files: list[str]) -> str:
    """Returns the folder that holds all of the files, with its slash."""
    first, last = min(files).split("/"), max(files).split("/")
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1], strict=False))
    return "".join(f"{part}/" for part, _ in same)


def shown_name(file: str) -> PurePosixPath:
    """Returns the name of a file without the folder and what stands after a `?`."""
    path = file.partition("?")[0] if is_address(file) else file
    return PurePosixPath(PurePosixPath(path).name)


@contextmanager
def open_file(file: str) -> Iterator[pa.NativeFile]:
    """Opens a file, here or in a store, to be read in any order.

    Raises:
        UserError: It is not there, or the store does not answer.
    """
    try:
        if not is_address(file):
            with pa.OSFile(file) as opened:
                yield opened
        else:
            store, path = open_store(file)
            with store.open_input_file(path) as opened:
                yield opened
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is damaged: {_first_line(error)}") from None
    except FileNotFoundError:
        raise UserError(f"there is no file {file}") from None
    except OSError as error:
        if error.errno:  # Of a disk, perhaps that of who reads this.
            raise
        if is_address(file):
            raise store_error(file, error, _AGAIN) from None
        raise UserError(f"{file} is damaged: {_first_line(error)}") from None


def copy_here(file: str, target: IO[bytes]) -> None:
    """Copies a file of a store into one that is open.

    Raises:
        UserError: As `open_file`.
    """
    with open_file(file) as opened:
        while piece := opened.read(2**24):
            target.write(piece)


def read_beside(file: str, name: str) -> str:
    """Returns the text of a file in the folder of another; empty if there is none."""
    if not is_address(file):
        beside = Path(file).parent / name
        return beside.read_text(encoding="utf-8") if beside.is_file() else ""
    base, mark, options = file.partition("?")
    beside_address = f"{base.rpartition('/')[0]}/{name}{mark}{options}"
    store, path = open_store(beside_address)
    try:
        if store.get_file_info(path).type != stores.FileType.File:
            return ""
    except OSError as error:
        raise store_error(file, error, _AGAIN) from None
    with open_file(beside_address) as opened:
        return opened.read(2**24).decode()  # type: ignore[no-any-return]


def _here(name: str, endings: tuple[str, ...]) -> list[str]:
    path = user_path(name)
    if path.is_dir():
        return sorted(str(file) for ending in endings for file in path.rglob(f"*{ending}"))
    if path.exists():
        return [str(path)]
    if found := sorted(glob.glob(str(path), recursive=True)):
        return found
    raise UserError(f"there is no file or folder '{name}'")


def _in_store(address: str, endings: tuple[str, ...]) -> list[str]:
    if address.partition("?")[0].endswith(endings):
        return [address]
    store, root = open_store(address)
    try:
        found = store.get_file_info(stores.FileSelector(root, recursive=True))
    except FileNotFoundError:
        raise UserError(f"{address} is empty: no file has a name that begins with it") from None
    except OSError as error:
        raise store_error(address, error, _AGAIN) from None
    names = [each.path[len(root) + 1 :] for each in found if each.is_file]
    return [join(address, name) for name in sorted(names) if name.endswith(endings)]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
