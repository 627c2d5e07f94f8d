"""What a search leaves behind for each trial: its run folder and, in it, `trial.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dynat_ray.settings import Settings
from dynat_ray.storage.atomic import atomic_write_text
from dynat_ray.storage.metrics import read_metrics

State = Literal["running", "finished", "stopped", "failed"]
DEFAULT_TRIAL = 0
_TRIALS = "trials"


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
        """Line of the best epoch, whose weights are the trial's model."""
        return max(self.measured, key=_score, default=None)

    @property
    def epochs(self) -> int:
        """Epochs that it trained for."""
        return int(self.metrics[-1]["epoch"]) + 1 if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return float(self.metrics[-1]["elapsed"]) if self.metrics else 0.0

    def after(self, epochs: int) -> float | None:
        """Returns the best robust accuracy within so many epochs, None if it trained for less."""
        if self.epochs < epochs:
            return None
        lines = [line for line in self.measured if line["epoch"] < epochs]
        return max((line["validation_robust_accuracy"] for line in lines), default=None)


def _score(line: dict[str, Any]) -> tuple[float, float]:
    return line["validation_robust_accuracy"], line["validation_clean_accuracy"]


def trial_folder(search_folder: Path, number: int) -> Path:
    """Returns a trial's run folder."""
    return search_folder / _TRIALS / f"{number:04d}"


def write_trial(search_folder: Path, trial: Trial) -> None:
    """Writes `trial.json`."""
    folder = trial_folder(search_folder, trial.number)
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in asdict(trial).items() if name != "metrics"}
    atomic_write_text(folder / "trial.json", json.dumps(content, indent=2) + "\n")


def read_trial(search_folder: Path, number: int) -> Trial:
    """Reads a trial that was begun."""
    folder = trial_folder(search_folder, number)
    content = json.loads((folder / "trial.json").read_text())
    return Trial(**content, metrics=read_metrics(folder / "metrics.jsonl"))


def read_trials(search_folder: Path) -> list[Trial]:
    """Reads all trials of a search, by number."""
    files = sorted((search_folder / _TRIALS).glob("*/trial.json"))
    return [read_trial(search_folder, int(file.parent.name)) for file in files]
