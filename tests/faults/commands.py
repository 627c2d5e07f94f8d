"""Commands that are stopped and started again, and what each of them has made in the end."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.csv
import yaml

from dynat_ray.models import load_model
from dynat_ray.searching.trial_records import read_trials, trial_folder
from dynat_ray.storage.metrics import read_metrics
from tests.faults.jobs import ROOT, tell

# How many random moments, and which.
MOMENTS = int(os.environ.get("MOMENTS", "30"))
SEED = int(os.environ.get("MOMENTS_SEED", "0"))
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
SMALL = (
    "--train.epochs 3 --attack.steps 2 --data.loader memory --cluster.workers 1 "
    "--eval.attacks clean,pgd-3"
)
_GO_ON = re.compile(r"^stopped: .*go on with: python (.+)$", re.MULTILINE)
# At most, for a command that was asked to end: a busy machine takes long to connect to Ray.
_SECONDS_TO_END = 120
# What differs between two runs that are alike.
_OF_TIME = ("seconds", "images_per_second", "elapsed", "loader_seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class Victim:
    """A command.

    Attributes:
        line: What follows `python -m dynat_ray.`, for an output folder.
        outcome: What it made there, to be compared.
        resumable: It takes `--resume`.
    """

    line: Callable[[Path], str]
    outcome: Callable[[Path], Any]
    resumable: bool = True


def _run_outcome(folder: Path) -> Any:
    weights = load_model(folder / "model_last").state_dict()
    lines = [_without_time(line) for line in read_metrics(folder / "metrics.jsonl")]
    results = _without_time(json.loads((folder / "results.json").read_text()))
    return lines, results, {name: value.tolist() for name, value in weights.items()}


def _search_outcome(folder: Path) -> Any:
    trials = [
        (trial.number, trial.state, trial.settings, _lines(trial_folder(folder, trial.number)))
        for trial in read_trials(folder)
    ]
    return trials, yaml.safe_load((folder / "best.yaml").read_text())


def _comparison_outcome(folder: Path) -> Any:
    table = pyarrow.csv.read_csv(folder / "compare.csv")
    kept = [name for name in table.column_names if not any(word in name for word in _OF_TIME)]
    runs = sorted(path.parent for path in folder.rglob("results.json"))
    return table.select(kept).to_pylist(), [_run_outcome(run) for run in runs]


def _evaluation_outcome(folder: Path) -> Any:
    content = json.loads((folder / "evaluation.json").read_text())
    return content["results"], content["checks"]


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [_without_time(line) for line in read_metrics(folder / "metrics.jsonl")]


def _without_time(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _OF_TIME}


VICTIMS = {
    "train": Victim(lambda out: f"train {SMALL} --out {out} --name it", _run_outcome),
    "evaluate": Victim(
        lambda out: (
            f"evaluate {out.parent}/whole-train/it --attacks clean,pgd-20,apgd-t "
            f"--out {out}/it/evaluation.json"
        ),
        _evaluation_outcome,
    ),
    "train-by-two": Victim(
        lambda out: f"train {SMALL} --cluster.workers 2 --out {out} --name it", _run_outcome
    ),
    "evaluate-by-two": Victim(
        lambda out: (
            f"evaluate {out.parent}/whole-train/it --attacks clean,pgd-20,apgd-t --workers 2 "
            f"--out {out}/it/evaluation.json"
        ),
        _evaluation_outcome,
    ),
    "prepare": Victim(
        lambda out: f"prepare digits --out {out}/it",
        lambda folder: json.loads((folder / "dataset.json").read_text()),
        resumable=False,
    ),
    "compare": Victim(
        lambda out: f"compare --methods pgd_at,trades {SMALL} --out {out} --name it",
        _comparison_outcome,
    ),
    "tune": Victim(
        lambda out: (
            f"tune {ROOT}/tune_spaces/trades.yaml --trials 2 --search random "
            f"--no-early-stop {SMALL} --out {out} --name it"
        ),
        _search_outcome,
    ),
}


class Place:
    """Where commands run: an output folder, a folder for temporary files, a mark in all processes.

    As a context it ends what still runs, and says what was stopped when.

    Args:
        folder: For outputs.
        environment: More variables for the commands.

    Attributes:
        folder: For outputs.
        seconds: How long each undisturbed command took.
        outcomes: What it made.
        rows: What was killed how, when, and how long it took to end.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        # Ray's socket paths must stay short.
        self._temporary = temporary = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
        self._mark = uuid.uuid4().hex
        self.seconds: dict[str, float] = {}
        self.outcomes: dict[str, Any] = {}
        self.rows: list[tuple[str, str, float, float]] = []
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "DYNAT_RAY_"))},
            "FAULTS_MARK": self._mark,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary / "t"),
            "RAY_TMPDIR": str(temporary / "r"),
            **(environment or {}),
        }
        (temporary / "t").mkdir()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.tell_rows()
        for process in self.processes():
            process.kill()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def start(self, name: str, out: Path, *, resume: bool) -> subprocess.Popen[str]:
        """Starts a command."""
        words = VICTIMS[name].line(out).split()
        words += ["--resume"] * (resume and VICTIMS[name].resumable)
        return self._started("-m", f"dynat_ray.{words[0]}", *words[1:])

    def _started(self, *words: str) -> subprocess.Popen[str]:
        """Starts Python; it is the first process of a group, as in a terminal."""
        return subprocess.Popen(
            [sys.executable, *words],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._temporary,
            start_new_session=True,
        )

    def whole(self, name: str) -> float:
        """Returns how long the command takes undisturbed; runs it the first time."""
        if name not in self.seconds:
            out, began = self.folder / f"whole-{name}", time.monotonic()
            self.finish(name, out)
            self.seconds[name] = time.monotonic() - began
            self.outcomes[name] = VICTIMS[name].outcome(out / "it")
            tell(f"{name}, undisturbed: {self.seconds[name]:.0f} s")
        return self.seconds[name]

    def stopped(self, name: str, out: Path, what: signal.Signals, number: int) -> str:
        """Sends a command a signal at the random moment of that number; returns its errors."""
        moment = random.Random(f"{SEED} {number}").uniform(0, self.whole(name))
        out.mkdir()
        process = self.start(name, out, resume=False)
        try:
            output, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            asked = time.monotonic()
            process.send_signal(what)
            output, errors = process.communicate(timeout=_SECONDS_TO_END)
            self.rows.append((name, what.name, moment, time.monotonic() - asked))
        # A command begins to listen when Python has read it, and may end by itself before the
        # signal.
        assert process.returncode in (0, SIGNALS[what], -what), output + errors
        if process.returncode > 0:
            assert errors.splitlines()[-1].startswith("stopped"), errors
        return errors

    def tell_rows(self) -> None:
        """Prints what was stopped when, and how long it took to end."""
        for name, what, moment, seconds in self.rows:
            whole = self.seconds[name]
            tell(f"{name:15} {what:8} after {moment:5.1f} of {whole:5.1f} s, in {seconds:4.1f} s")

    def finish(self, name: str, out: Path, said: str = "") -> None:
        """Runs a command to its good end, by the line that it has said to go on with, if any."""
        out.mkdir(exist_ok=True)
        if line := _GO_ON.search(said):
            process = self._started(*shlex.split(line[1]))
        else:
            process = self.start(name, out, resume=True)
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors

    def processes(self) -> list[psutil.Process]:
        """Returns the living processes of all commands."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("FAULTS_MARK") == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return [each for each in found if each.status() != psutil.STATUS_ZOMBIE]

    def litter(self, out: Path) -> list[str]:
        """Returns what is left that belongs to nothing."""
        left = [
            *out.rglob(".*.lease-*"),
            *out.rglob(".dynat-ray-*.tmp"),
            *out.glob(".it-*"),
            *out.glob("it/tune"),
            *(each for each in (self._temporary / "t").iterdir() if "ray" in each.name),
        ]
        return [str(each) for each in left]
