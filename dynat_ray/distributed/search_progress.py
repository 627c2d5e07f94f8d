"""What a running search shows, read from the folders of its trials."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from dynat_ray.distributed.polling import Poller
from dynat_ray.durations import describe_seconds
from dynat_ray.report.text import trials_table, value_text
from dynat_ray.searching.study import Search
from dynat_ray.searching.trial_records import Trial, TrialsReader
from dynat_ray.shown_text import shown_text

_SECONDS_BETWEEN_POLLS = 5.0
_UP_AND_CLEAR = "\x1b[{lines}F\x1b[J"


class SearchPrinter(Poller):
    """Shows the trials while its context lasts.

    On a terminal that is a table that renews itself; elsewhere, in a log file, a line whenever a
    trial starts or ends. In the end the whole table is printed.

    Args:
        folder: The search's folder.
        search: The search.
        time_budget: Seconds; None: no bound.
    """

    def __init__(self, folder: Path, search: Search, time_budget: float | None) -> None:
        super().__init__(_SECONDS_BETWEEN_POLLS)
        self._search, self._budget = search, time_budget
        self._live = sys.stdout.isatty()
        self._shown_lines = 0
        self._trials = TrialsReader(folder)
        before = self._trials.read()
        self._states: dict[int, str] = {
            trial.number: trial.state for trial in before if trial.state != "running"
        }
        # Epochs of before a resume took no time of this one.
        self._epochs_before = {trial.number: trial.epochs for trial in before}
        self._began = time.monotonic()

    def poll_last(self) -> None:
        """Looks once more and, in a log file, prints the whole table."""
        self.poll()
        if not self._live:
            table = trials_table(self._trials.read(), self._search.length)
            print(f"\n{table}\n", flush=True)

    def poll(self) -> None:
        """Shows what is new."""
        trials = self._trials.read()
        if self._live:
            self._draw(trials)
            return
        for trial in trials:
            if self._states.get(trial.number) != trial.state:
                self._states[trial.number] = trial.state
                print(shown_text(self._describe(trial, trials)), flush=True)

    def _draw(self, trials: list[Trial]) -> None:
        columns, rows = shutil.get_terminal_size()
        # More trials than the screen has lines: the newest.
        newest = trials[-(rows - 3) :]
        table = trials_table(newest, self._search.length, columns - 1).splitlines()
        text = "\n".join([*table, self._progress(trials)[: columns - 1]])
        above = _UP_AND_CLEAR.format(lines=self._shown_lines) if self._shown_lines else ""
        print(above + text, flush=True)
        self._shown_lines = text.count("\n") + 1

    def _describe(self, trial: Trial, trials: list[Trial]) -> str:
        if trial.state == "running":
            settings = (
                f"{k.rpartition('.')[2]} {value_text(v)}" for k, v in trial.settings.items()
            )
            return f"trial {trial.number} starts: {', '.join(settings)}"
        words = f"trial {trial.number} {trial.state}"
        if trial.error:
            return f"{words}: {trial.error} ({self._progress(trials)})"
        if best := trial.best:
            words += (
                f" after {trial.epochs} epochs: clean {best['validation_clean_accuracy']:.1f} %, "
                f"robust {best['validation_robust_accuracy']:.1f} %"
            )
        return f"{words} ({self._progress(trials)})"

    def _progress(self, trials: list[Trial]) -> str:
        wanted = self._search.options.trials
        ended = [trial for trial in trials if trial.state != "running"]
        spent = time.monotonic() - self._began
        text = f"{len(ended)} of {wanted} trials done"
        new = [trial for trial in ended if self._epochs_before.get(trial.number, 0) < trial.epochs]
        left = None
        if new:
            # Trials take turns: what each took so far holds for those to come.
            left = max(spent / len(new) * (wanted - len(ended)), 0.0)
        if self._budget is not None:
            rest = max(self._budget - spent, 0.0)
            left = rest if left is None else min(left, rest)
        return (
            text
            if left is None or len(ended) == wanted
            else (f"{text}, about {describe_seconds(left)} left")
        )
