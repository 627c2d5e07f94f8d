"""What a search leaves behind for each trial: its run folder and, in it, `trial.json`."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.bounded_file import read_bounded
from dynat_ray.errors import UserError
from dynat_ray.settings import Settings
from dynat_ray.storage.links import inner_folder
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_length import RunLength

State = Literal["running", "finished", "stopped", "failed"]
DEFAULT_TRIAL = 0
_TRIALS = "trials"
_FILE = "trial.json"
_METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Trial:
    """One training run of a search.

    Attributes:
        number: From 0, which is the default setting.
        settings: The searched settings by full key.
        state: `running` also when the search was cut off; `stopped`: early, by its accuracy.
        error: Why it failed, one line.
        validation: Accuracies in percent of its best model on the validation split under the
            attacks that choose the winner, by attack, each with `accuracy` and `samples`; empty:
            it was not among the best.
        metrics: Lines of its `metrics.jsonl`.
    """

    number: int
    settings: Settings
    state: State = "running"
    error: str = ""
    validation: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list, compare=False)

    @property
    def measured(self) -> list[dict[str, Any]]:
        """Lines of the epochs that the validation split was used after."""
        return [x for x in self.metrics if x["validation_robust_accuracy"] is not None]

    @property
    def best(self) -> dict[str, Any] | None:
        """Line of the best epoch, whose weights are the trial's model: its method says which."""
        return next((line for line in reversed(self.measured) if line["best"]), None)

    @property
    def epochs(self) -> int:
        """Epochs that it trained for."""
        return int(self.metrics[-1]["epoch"]) + 1 if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return float(self.metrics[-1]["elapsed"]) if self.metrics else 0.0

    def after(self, length: RunLength) -> float | None:
        """Returns the best robust accuracy until it had trained for so long, None if it did not."""
        reached = [length.is_reached(length.spent(line)) for line in self.metrics]
        if not any(reached):
            return None
        last = self.metrics[reached.index(True)]["epoch"]
        lines = [line for line in self.measured if line["epoch"] <= last]
        return max((line["validation_robust_accuracy"] for line in lines), default=None)


def trial_folder(search_folder: Path, number: int) -> Path:
    """Returns a trial's run folder."""
    return search_folder.joinpath(*_place(number))


def begin_trial(search_folder: Path, trial: Trial) -> None:
    """Writes the `trial.json` of a trial that is new.

    What is in its folder belongs to one whose settings are lost, and goes.
    """
    inner_folder(search_folder, _TRIALS)
    folder = trial_folder(search_folder, trial.number)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    write_trial(search_folder, trial)


def write_trial(search_folder: Path, trial: Trial) -> None:
    """Writes `trial.json`."""
    folder = inner_folder(search_folder, *_place(trial.number))
    content = {name: value for name, value in asdict(trial).items() if name != "metrics"}
    atomic_write_text(folder / _FILE, json.dumps(content, indent=2) + "\n")


def read_trial(search_folder: Path, number: int) -> Trial:
    """Reads a trial that was begun.

    Raises:
        UserError: Its `trial.json` is not there or is damaged.
    """
    trial = _read(trial_folder(search_folder, number), number)
    if trial is None:
        raise UserError(
            f"{trial_folder(search_folder, number) / _FILE} is not there or is damaged; the same "
            "command with --resume tries this trial anew"
        )
    return trial


def read_trials(search_folder: Path) -> list[Trial]:
    """Reads all trials of a search, by number; one whose `trial.json` is cut has not begun."""
    return TrialsReader(search_folder).read()


class TrialsReader:
    """Reads the trials of a search again and again, of those that have ended what is new.

    Args:
        search_folder: The search's.
    """

    def __init__(self, search_folder: Path) -> None:
        self._folder = search_folder
        self._ended: dict[int, tuple[list[int], Trial]] = {}

    def read(self) -> list[Trial]:
        """Returns all trials, by number."""
        numbered = (
            (int(file.parent.name), file.parent)
            for file in (self._folder / _TRIALS).glob(f"*/{_FILE}")
            if file.parent.name.isdecimal()
        )
        found = (self._read(folder, number) for number, folder in sorted(numbered))
        return [trial for trial in found if trial is not None]

    def _read(self, folder: Path, number: int) -> Trial | None:
        when, known = self._ended.get(number, ([], None))
        now = _changed(folder)
        if known is not None and when == now:
            return known
        trial = _read(folder, number)
        if trial is not None and trial.state != "running":
            self._ended[number] = now, trial
        return trial


def _changed(folder: Path) -> list[int]:
    """Returns when a trial's records were written last, in nanoseconds; 0: not there."""
    times = []
    for name in (_FILE, _METRICS):
        try:
            times.append((folder / name).stat().st_mtime_ns)
        except OSError:
            times.append(0)
    return times


def _read(folder: Path, number: int) -> Trial | None:
    """Returns the trial in a folder; None if its file is not there or not as we write it."""
    try:
        content = json.loads(read_bounded(folder / _FILE))
    except (OSError, ValueError, RecursionError):
        return None
    wanted = {each.name for each in fields(Trial)} - {"metrics"}
    if not isinstance(content, dict) or content.keys() != wanted:
        return None
    kinds = (content["settings"], dict), (content["error"], str), (content["validation"], dict)
    if (
        content["number"] != number
        or content["state"] not in get_args(State)
        or not all(isinstance(value, kind) for value, kind in kinds)
    ):
        return None
    return Trial(**content, metrics=read_metrics(folder / _METRICS))


def _place(number: int) -> tuple[str, str]:
    return _TRIALS, f"{number:04d}"
