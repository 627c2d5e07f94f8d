"""What a running job shows: one line per epoch, read from the run folder that workers write."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from dynat_ray.atomic_files import append_line, atomic_write_text
from dynat_ray.bounded_file import read_bounded
from dynat_ray.config import RunConfig
from dynat_ray.distributed.polling import Poller
from dynat_ray.durations import describe_seconds
from dynat_ray.radius import format_radius
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_length import RunLength

_SECONDS_BETWEEN_POLLS = 0.5
NOTES = "notes.log"


def add_note(run_folder: Path, message: str) -> None:
    """Leaves a message for the user beside the metrics, if the disk still takes it."""
    with suppress(OSError):
        if not append_line(run_folder / NOTES, message.encode()):
            atomic_write_text(run_folder / NOTES, f"{message}\n")


class ProgressPrinter(Poller):
    """Prints new lines of a run's metrics and notes while its context lasts.

    Args:
        run_folder: The run's folder.
        config: For the length of the run and the threat.
    """

    def __init__(self, run_folder: Path, config: RunConfig) -> None:
        super().__init__(_SECONDS_BETWEEN_POLLS)
        self._folder = run_folder
        self._config = config
        self._printed = len(read_metrics(run_folder / "metrics.jsonl"))
        self._notes = len(self._read_notes())

    def poll(self) -> None:
        """Prints what is new."""
        notes = self._read_notes()
        for note in notes[self._notes :]:
            print(f"note: {shown_text(note)}", file=sys.stderr, flush=True)
        self._notes = len(notes)
        lines = read_metrics(self._folder / "metrics.jsonl")
        # After a restart the file is shorter: epochs that are run again are printed again.
        for line in lines[min(self._printed, len(lines)) :]:
            print(describe_epoch(line, self._config), flush=True)
        self._printed = len(lines)

    def _read_notes(self) -> list[str]:
        try:
            content = read_bounded(self._folder / NOTES)
        except OSError:
            return []
        return content.decode(errors="replace").splitlines()


def describe_epoch(line: dict[str, Any], config: RunConfig) -> str:
    """Returns an epoch's metrics as one line for the terminal.

    Args:
        line: From `metrics.jsonl`.
        config: For the length of the run and the threat.
    """
    length = RunLength.of(config.train)
    parts = [_describe_length(line, length), f"loss {line['loss']:.3f}"]
    for name, key in (("clean", "clean_accuracy"), ("robust", "robust_accuracy")):
        value = line[f"validation_{key}"]
        kind = "" if value is not None else "(train) "
        value = line[f"train_{key}"] if value is None else value
        if value is not None:
            parts.append(f"{name} {kind}{value:.1f} %")
    if line["attacked_share"] is not None and line["attacked_share"] < 100:
        parts.append(f"attacked {line['attacked_share']:.0f} %")
    if line["mean_eps"] is not None:
        parts.append(f"eps {format_radius(line['mean_eps'], config.threat.norm)}")
        parts.append(f"steps {line['mean_attack_steps']:.1f}")
    parts.append(f"{line['images_per_second']:,.0f} images/s")
    share = length.share(line)
    left = line["elapsed"] / share * (1 - share)
    parts.append(f"{describe_seconds(left)} left")
    return "  ".join(parts)


def _describe_length(line: dict[str, Any], length: RunLength) -> str:
    fraction = length.fraction(line)
    width = 2 * len(f"{length.total:g}") + 1
    if length.by_compute:
        return f"epoch {line['epoch'] + 1:>3}  units {fraction:>{width}}"
    return f"epoch {fraction:>{width}}"
