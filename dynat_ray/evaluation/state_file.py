"""Finished shards on disk, so that an evaluation killed at any moment goes on where it was.

A JSON-lines file: the first line says what is evaluated, each further line is one finished
shard. A line counts once its line break is written, so a kill costs at most the shards that were
being done.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from dynat_ray.atomic_files import make_folder, open_to_append, sync_folder
from dynat_ray.errors import UserError
from dynat_ray.evaluation.identity import Identity
from dynat_ray.evaluation.shards import Shard, ShardOutcome

_FORMAT = 2
_LARGEST = 2**31
# Bytes of a line, far more than a shard's; what a hole in the file stands for is longer.
_LONGEST_LINE = 2**26
# What shared file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# What checksums in an identity are of.
_COMPUTED = {"model": "model", "answers": "model", "code": "version of its code", "data": "data"}


class StateFile:
    """The state of one evaluation.

    Attributes:
        finished: Shards that an earlier run finished and this file holds.
        left: Shards still to do.
        seconds: How long the finished ones took.
    """

    def __init__(self, file: IO[bytes], shards: Sequence[Shard], done: dict[_Key, _Line]) -> None:
        self._file = file
        self.finished = [(s, _outcomes(done[_key(s)])) for s in shards if _key(s) in done]
        self.left = [shard for shard in shards if _key(shard) not in done]
        self.seconds = sum(line["seconds"] for line in done.values())
        self._last = time.monotonic()

    def add(self, shard: Shard, outcomes: dict[str, ShardOutcome]) -> None:
        """Writes a finished shard; it is on disk when this returns."""
        now = time.monotonic()
        line = {
            "eps": shard.threat.eps,
            "shard": shard.number,
            "seconds": round(now - self._last, 3),
            "outcomes": {
                name: {
                    field: values.tolist()
                    for field, values in vars(outcome).items()
                    if values is not None
                }
                for name, outcome in outcomes.items()
            },
        }
        self._last = now
        _write_line(self._file, line)


_Key = tuple[float, int]
_Line = dict[str, Any]


@contextmanager
def open_state(
    path: Path, identity: Identity, shards: Sequence[Shard], *, resume: bool
) -> Iterator[StateFile]:
    """Opens the state of an evaluation, or starts one.

    Args:
        path: The state file.
        identity: Of this evaluation.
        shards: All its shards.
        resume: Whether to go on with what `path` holds.

    Raises:
        UserError: With `resume`: the state is of another model, data set or setting, or is no
            state file. Without: the state is of an evaluation that has not ended. Always: the
            file is in use by another process or can't be written.
    """
    try:
        make_folder(path.parent)
        file = open_to_append(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"the state file {path} can't be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise UserError(
                    f"another evaluation is writing {path}; wait for it, or write to another folder"
                ) from None
        done = _read(file, path, identity, shards, resume)
        yield StateFile(file, shards, done)


def _read(
    file: IO[bytes], path: Path, identity: Identity, shards: Sequence[Shard], resume: bool
) -> dict[_Key, _Line]:
    """Returns the finished shards by key, and leaves the file ready for the next line."""
    header, lines, length = _parse(file, path)
    wanted = {_key(shard): shard for shard in shards}
    if header is not None and resume:
        _require_same(header["identity"], identity, path)
        file.truncate(length)
        file.seek(0, os.SEEK_END)
        # A line that is none of this evaluation's is done again, and the later one counts.
        return {
            key: line for key, line in lines.items() if key in wanted and _fits(line, wanted[key])
        }
    if header is not None and 0 < len(lines) < header["shards"]:
        raise UserError(
            f"{path} holds {len(lines)} of {header['shards']} shards of an evaluation that has "
            "not ended; --resume goes on, or delete it"
        )
    file.truncate(0)
    _write_line(file, {"format": _FORMAT, "identity": identity, "shards": len(shards)})
    return {}


def _parse(file: IO[bytes], path: Path) -> tuple[_Line | None, dict[_Key, _Line], int]:
    """Returns first line, finished shards, and how many bytes of the file are whole lines."""
    file.seek(0)
    header: _Line | None = None
    lines: dict[_Key, _Line] = {}
    length = 0
    while text := file.readline(_LONGEST_LINE):
        try:
            line = json.loads(text)
            if not text.endswith(b"\n"):
                break
            if header is None:
                if line["format"] != _FORMAT:
                    raise UserError(f"{path} is of another version of dynat_ray; delete it")
                header = {"identity": dict(line["identity"]), "shards": int(line["shards"])}
            else:
                lines[float(line["eps"]), int(line["shard"])] = line
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            if header is None and text.endswith(b"\n"):
                raise UserError(f"{path} is not a state file of an evaluation") from None
            break
        length += len(text)
    return header, lines, length


def _require_same(found: Identity, wanted: Identity, path: Path) -> None:
    different = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if not different:
        return
    another = [what for key, what in _COMPUTED.items() if key in different]
    if another:
        what = " and ".join(dict.fromkeys(another))
        raise UserError(f"{path} is of an evaluation of another {what} (checksums differ)")
    key = different[0]
    raise UserError(
        f"{path} is of an evaluation with {key} {found.get(key)!s:.200}, not {wanted.get(key)}; "
        "give the same settings to go on, or another --out"
    )


def _write_line(file: IO[bytes], line: _Line) -> None:
    try:
        file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{file.name} can't be written: {error.strerror}") from None


def _fits(line: _Line, shard: Shard) -> bool:
    """Returns whether a line has an outcome for every sample and attack of its shard."""
    seconds, outcomes, count = line.get("seconds"), line.get("outcomes"), len(shard.positions)
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        return False
    if not isinstance(outcomes, dict) or outcomes.keys() != set(shard.attacks):
        return False
    return all(
        isinstance(values, dict)
        and all(_are_numbers(values.get(name), int, count) for name in ("predicted", "fooled_by"))
        and ("distances" not in values or _are_numbers(values["distances"], (int, float), count))
        for values in outcomes.values()
    )


def _are_numbers(values: object, kinds: type | tuple[type, ...], count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, kinds) for value in values)
        and all(abs(value) < _LARGEST for value in values if isinstance(value, int))
    )


def _key(shard: Shard) -> _Key:
    return shard.threat.eps, shard.number


def _outcomes(line: _Line) -> dict[str, ShardOutcome]:
    return {
        name: ShardOutcome(
            np.array(values["predicted"], dtype=np.int64),
            np.array(values["fooled_by"], dtype=np.int64),
            np.array(values["distances"], dtype=np.float64) if "distances" in values else None,
        )
        for name, values in line["outcomes"].items()
    }
