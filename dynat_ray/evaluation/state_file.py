"""Finished shards on disk, so that an evaluation killed at any moment goes on where it was.

A JSON-lines file: the first line says what is evaluated, each further line is one finished
shard, and the last that all are. A line counts once its line break is written, so a kill costs at
most the shards that were being done.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.atomic_files import make_folder, open_to_append, sync_folder
from dynat_ray.errors import UserError
from dynat_ray.evaluation.identity import Identity
from dynat_ray.evaluation.shard_outcome import ShardOutcome
from dynat_ray.evaluation.shards import FinishedShard, Shard, ShardOutcomes

_FORMAT = 4
_LARGEST = 2**31
# Bytes of a line, far more than a shard's; what a hole in the file stands for is longer.
_LONGEST_LINE = 2**26
# What checksums in an identity are of.
_COMPUTED = {"model": "model", "answers": "model", "code": "version of its code", "data": "data"}


class StateFile:
    """The state of one evaluation.

    Attributes:
        seconds: How long the shards took that an earlier run finished and this one has taken over.
        cpu_seconds: What of it the evaluating process itself computed, without Ray workers.
    """

    def __init__(self, file: IO[bytes], lines: Sequence[_Line]) -> None:
        self._file = file
        self._lines = {line["shard"]: line for line in lines if "ended" not in line}
        self._ended = any("ended" in line for line in lines)
        self.seconds = self.cpu_seconds = 0.0
        self._last, self._last_cpu = time.monotonic(), time.process_time()

    def take_over(self, shards: Sequence[Shard]) -> tuple[list[FinishedShard], list[Shard]]:
        """Returns those shards that an earlier run finished, and those still to do."""
        finished, left = [], []
        for shard in shards:
            line = self._lines.get(shard.number)
            # A line that does not fit is done again, and the later one counts.
            if line is not None and _fits(line, shard):
                finished.append((shard, _outcomes(line, shard)))
                self.seconds += line["seconds"]
                self.cpu_seconds += line["cpu_seconds"]
            else:
                left.append(shard)
        return finished, left

    def add(self, shard: Shard, outcomes: ShardOutcomes) -> None:
        """Writes a finished shard; it is on disk when this returns."""
        now, cpu = time.monotonic(), time.process_time()
        line = {
            "shard": shard.number,
            "samples": _checksum(shard),
            "seconds": round(now - self._last, 3),
            "cpu_seconds": round(cpu - self._last_cpu, 3),
            "outcomes": [
                {
                    name: {
                        field: values.tolist()
                        for field, values in vars(outcome).items()
                        if values is not None
                    }
                    for name, outcome in outcomes[threat].items()
                }
                for threat in shard.threats
            ],
        }
        self._last, self._last_cpu = now, cpu
        _write_line(self._file, line)

    def end(self) -> None:
        """Says that no shard is left to do."""
        if not self._ended:
            _write_line(self._file, {"ended": True})


_Line = dict[str, Any]


@contextmanager
def open_state(path: Path, identity: Identity, *, resume: bool) -> Iterator[StateFile]:
    """Opens the state of an evaluation, or starts one; whoever calls has its folder to himself.

    Args:
        path: The state file.
        identity: Of this evaluation.
        resume: Whether to go on with what `path` holds.

    Raises:
        UserError: With `resume`: the state is of another model, data set or setting, or is no
            state file. Without: the state is of an evaluation that has not ended. Always: the
            file can't be written.
    """
    try:
        make_folder(path.parent)
        file = open_to_append(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"the state file {path} can't be written: {error.strerror}") from None
    with file:
        yield StateFile(file, _read(file, path, identity, resume))


def _read(file: IO[bytes], path: Path, identity: Identity, resume: bool) -> list[_Line]:
    """Returns the lines after the first, and leaves the file ready for the next."""
    found, lines, length = _parse(file, path)
    if found is not None and resume:
        _require_same(found, identity, path)
        file.truncate(length)
        file.seek(0, os.SEEK_END)
        return lines
    if lines and not any("ended" in line for line in lines):
        raise UserError(
            f"{path} holds {len(lines)} finished shards of an evaluation that has not ended; "
            "--resume goes on, or delete it"
        )
    file.truncate(0)
    _write_line(file, {"format": _FORMAT, "identity": identity})
    return []


def _parse(file: IO[bytes], path: Path) -> tuple[Identity | None, list[_Line], int]:
    """Returns whose state it is, the lines that follow, and how many bytes are whole lines."""
    file.seek(0)
    identity: Identity | None = None
    lines: list[_Line] = []
    length = 0
    while text := file.readline(_LONGEST_LINE):
        try:
            line = json.loads(text)
            if not text.endswith(b"\n"):
                break
            if identity is None:
                if line["format"] != _FORMAT:
                    raise UserError(f"{path} is of another version of dynat_ray; delete it")
                identity = dict(line["identity"])
            elif "ended" in line or isinstance(line["shard"], int):
                lines.append(line)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            if identity is None and text.endswith(b"\n"):
                raise UserError(f"{path} is not a state file of an evaluation") from None
            break
        length += len(text)
    return identity, lines, length


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
    """Returns whether a line has an outcome for every sample, threat and attack of its shard."""
    outcomes = line.get("outcomes")
    if not all(_is_duration(line.get(name)) for name in ("seconds", "cpu_seconds")):
        return False
    if line.get("samples") != _checksum(shard) or not isinstance(outcomes, list):
        return False
    return len(outcomes) == len(shard.threats) and all(
        isinstance(found, dict)
        and found.keys() == set(shard.attacks)
        and all(_is_outcome(values, len(shard.positions)) for values in found.values())
        for found in outcomes
    )


def _is_duration(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _is_outcome(values: object, count: int) -> bool:
    return (
        isinstance(values, dict)
        and all(_are_numbers(values.get(name), int, count) for name in ("predicted", "fooled_by"))
        and all(
            name not in values or _are_numbers(values[name], (int, float), count)
            for name in ("distances", "margins")
        )
    )


def _are_numbers(values: object, kinds: type | tuple[type, ...], count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, kinds) for value in values)
        and all(abs(value) < _LARGEST for value in values if isinstance(value, int))
    )


def _checksum(shard: Shard) -> int:
    # Whom a second round sees follows from the first, which might come out otherwise elsewhere.
    return zlib.crc32(shard.positions.tobytes())


def _outcomes(line: _Line, shard: Shard) -> ShardOutcomes:
    return {
        threat: {name: _outcome(values) for name, values in found.items()}
        for threat, found in zip(shard.threats, line["outcomes"], strict=True)
    }


def _outcome(values: dict[str, Any]) -> ShardOutcome:
    def numbers(name: str) -> NDArray[np.float64] | None:
        return np.array(values[name], dtype=np.float64) if name in values else None

    return ShardOutcome(
        np.array(values["predicted"], dtype=np.int64),
        np.array(values["fooled_by"], dtype=np.int64),
        distances=numbers("distances"),
        margins=numbers("margins"),
    )
