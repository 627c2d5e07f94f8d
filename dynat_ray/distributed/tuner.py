"""The trials of a search through Ray Tune, from the first to the last report."""

from __future__ import annotations

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# isort: split
import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from dynat_ray.distributed.graceful_stop import until_stopped
from dynat_ray.distributed.head_tasks import begin_on_head
from dynat_ray.distributed.mirror_follower import fetch_measured
from dynat_ray.distributed.placement_groups import remove_all_groups
from dynat_ray.distributed.ray_internals import HEAD_NODE
from dynat_ray.distributed.search_progress import SearchPrinter
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.trials import (
    EarlyStopper,
    Proposer,
    run_trial,
    write_trial_report,
)
from dynat_ray.searching.study import Search
from dynat_ray.searching.trial_records import read_trials, trial_folder

_TUNE_FOLDER = "tune"
_FETCHES_AT_ONCE = 16
# Only the head node has this resource. A trial's own process asks for a trace of it and for no
# CPU, so that it never takes what the workers of some trial wait for.
_ON_HEAD = {"cpu": 0, HEAD_NODE: 0.0001}


def run_trials(
    folder: Path, search: Search, *, concurrent: int, time_budget: float | None = None
) -> None:
    """Runs the trials that are left, and sees to it that each has its report.

    Args:
        folder: The search's folder, absolute.
        search: The search, as it stands in the folder.
        concurrent: Trials side by side.
        time_budget: Seconds after which no trial goes on; None: no bound.
    """
    stop = StopFlag()
    proposer = Proposer(folder, search, stop)
    if proposer.left == 0:
        return
    # What a search goes on from is in its own records.
    shutil.rmtree(folder / _TUNE_FOLDER, ignore_errors=True)
    _silence_tune()
    tuner = tune.Tuner(
        tune.with_resources(run_trial, _ON_HEAD),  # type: ignore[arg-type]
        tune_config=tune.TuneConfig(
            search_alg=proposer,
            scheduler=_early_stopper(folder, search),
            num_samples=proposer.left,
            max_concurrent_trials=concurrent,
            time_budget_s=time_budget,
        ),
        run_config=tune.RunConfig(
            name=_TUNE_FOLDER,
            storage_path=str(folder),
            verbose=0,
            callbacks=[_NoLines()],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        with SearchPrinter(folder, search, time_budget):
            until_stopped(tuner.fit, stop)
    finally:
        # Workers go on for a moment after Tune has ended their trial.
        _fetch_unfinished(folder)
    remove_all_groups()
    shutil.rmtree(folder / _TUNE_FOLDER, ignore_errors=True)
    _write_missing_reports(folder)


def _fetch_unfinished(folder: Path) -> None:
    """Fetches what trials that did not finish have measured, many at once: each waits long."""
    unfinished = [
        trial_folder(folder, trial.number)
        for trial in read_trials(folder)
        if trial.state != "finished"
    ]
    with ThreadPoolExecutor(_FETCHES_AT_ONCE) as threads:
        list(threads.map(fetch_measured, unfinished))


def _silence_tune() -> None:
    """The search prints its own tables."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.air").setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A trial that fails in its first epoch has measured nothing.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"


class _NoLines(TrialProgressCallback):
    """Replaces Tune's own, which prints a line for a trial without reports even when silent."""

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        """Prints nothing."""


def _early_stopper(folder: Path, search: Search) -> EarlyStopper | None:
    options = search.options
    if not options.first_rung:
        return None
    return EarlyStopper(folder, search.length, options.first_rung, options.reduction)


def _write_missing_reports(folder: Path) -> None:
    """Writes the report of trials that were stopped, many at once."""
    # Nowhere else: where the search is kept in a store, the folder is of this machine. No trial
    # runs any more, so that its memory is free.
    answers = {
        trial.number: begin_on_head(write_trial_report, path, memory_share=0.5)
        for trial in read_trials(folder)
        if trial.metrics
        and not ((path := trial_folder(folder, trial.number)) / "report.html").exists()
    }
    for number, answer in answers.items():
        try:
            ray.get(answer)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            print(f"the report of trial {number} could not be written: {reason}", flush=True)
