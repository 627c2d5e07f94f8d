"""A search through Ray Tune: check, run the trials, let AutoAttack choose, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.config import RunConfig
from dynat_ray.data import LazySplit, load_labels
from dynat_ray.distributed.capacity import side_by_side
from dynat_ray.distributed.cluster import require_shared_storage
from dynat_ray.distributed.evaluator import cluster_workers
from dynat_ray.distributed.final_table import measure, table_of
from dynat_ray.distributed.ray_trainer import resolve_workers
from dynat_ray.distributed.tracker_follower import TrackerFollower
from dynat_ray.distributed.training_run import finish, resolve
from dynat_ray.distributed.trials import trial_config
from dynat_ray.distributed.tuner import run_trials
from dynat_ray.distributed.waiting_for_nodes import wait_for_nodes
from dynat_ray.errors import UserError
from dynat_ray.evaluation.results import VALIDATION_OUTCOMES, write_run_samples
from dynat_ray.report.search_page import write_search_report
from dynat_ray.report.text import most_telling
from dynat_ray.searching.ranking import finalists, winner
from dynat_ray.searching.space import check_space, describe_distribution, representatives
from dynat_ray.searching.study import Search, open_search
from dynat_ray.searching.trial_records import (
    DEFAULT_TRIAL,
    Trial,
    read_trial,
    read_trials,
    trial_folder,
    write_trial,
)
from dynat_ray.searching.trials_table import write_trials_table
from dynat_ray.settings import dump_config, override
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.environment import write_environment
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.mirror import Mirror
from dynat_ray.tracking.run_trackers import (
    RUN_FILES,
    SEARCH_FILES,
    final_values,
    group_trackers,
    run_trackers,
)
from dynat_ray.training.setup import check_run, split_training

_SAMPLED = "autoattack-sampled"


@dataclass(frozen=True)
class Plan:
    """A search that was checked, and what it runs on.

    Attributes:
        search: With absolute paths.
        workers: Of each trial.
        gpu: A GPU for each worker.
        concurrent: Trials side by side.
    """

    search: Search
    workers: int
    gpu: bool
    concurrent: int

    def describe(self) -> str:
        """Returns the header of a search."""
        options = self.search.options
        stops = self.search.describe_stops()
        stops = f"{stops}; never the default setting" if stops else "none"
        rows = {
            "search": f"{options.trials} trials by {options.search}, for "
            f"{' and '.join(options.objectives)} accuracy; trial 0 is the default setting",
            "stops": stops,
            "trials": f"{self.concurrent} side by side, {self.workers} "
            f"{'GPU' if self.gpu else 'CPU'} worker{'s' * (self.workers > 1)} each",
        }
        ranges = [
            shown_text(f"{key}: {describe_distribution(distribution)}")
            for key, distribution in self.search.space.searched.items()
        ]
        return "\n".join(
            [f"{name:<9} {value}" for name, value in rows.items()]
            + [f"{'space' * (not place):<9} {line}" for place, line in enumerate(ranges)]
        )


def check(search: Search, *, max_concurrent: int | None = None, out_given: bool = True) -> Plan:
    """Checks everything that can be checked before a trial starts.

    Args:
        search: What the user asked for.
        max_concurrent: Most trials side by side; None: as many as fit.
        out_given: The user said where run folders go (on several nodes someone must).

    Raises:
        UserError: A setting, range or choice that can't work, or a trial that never fits on the
            cluster.
    """
    options = search.options
    check_space(search.space, search.default)
    if options.first_rung > search.length.total:
        raise UserError(f"--first-rung is {options.first_rung}, but trials have {search.length}")
    size = search.space.grid_size()
    if options.search == "grid" and options.trials != size + 1:
        raise UserError(
            f"the grid has {size} points and the default setting: give --trials {size + 1}, or "
            "fewer points in the space"
        )
    default, info, _ = resolve(search.default)
    for settings in representatives(search.space):
        check_run(override(default, settings), info)
    workers, _, gpu = resolve_workers(default.cluster)
    require_shared_storage(out_given)
    slots = side_by_side(workers, default.cluster.cpus_per_worker, gpu)
    concurrent = min(slots, options.trials, max_concurrent or slots)
    return Plan(replace(search, default=default), workers, gpu, concurrent)


def run_search(
    plan: Plan, folder: Path, *, resume: bool = False, time_budget: float | None = None
) -> list[Trial]:
    """Runs the trials that are left, judges the best by AutoAttack, and writes all results.

    Args:
        plan: From `check`.
        folder: The search's folder, absolute.
        resume: Go on with the search that is there, or start if there is none.
        time_budget: Seconds after which no trial goes on; None: no bound.

    Returns:
        All trials.

    Raises:
        UserError: What the user can correct.
    """
    search = plan.search
    open_search(folder, search, resume=resume)
    write_environment(folder, {"workers": plan.workers, "device": "cuda" if plan.gpu else "cpu"})
    if not read_trials(folder) and (mirror := Mirror.of(folder)):
        # A command that is killed sends nothing any more, and trials alone are no search.
        mirror.push()
    print(f"{plan.describe()}\n{'folder':<9} {shown_text(str(folder))}", flush=True)
    space = {f"space.{key}": describe_distribution(d) for key, d in search.space.searched.items()}
    trackers = group_trackers("search", search.default, folder, space)
    with TrackerFollower(trackers):
        _run_and_judge(plan, folder, time_budget)
    trackers.end("finished", files=SEARCH_FILES)
    return read_trials(folder)


def _run_and_judge(plan: Plan, folder: Path, time_budget: float | None) -> None:
    """Runs the trials that are left, and writes all results."""
    search = plan.search
    _wait_for_first_trial(plan, folder)
    run_trials(folder, search, concurrent=plan.concurrent, time_budget=time_budget)
    _end_stopped_trials(search, folder)
    _judge_finalists(plan, folder)
    best = winner(read_trials(folder), deciding_attack(search.default))
    write_trials_table(folder / "trials.parquet", search, read_trials(folder))
    if best is None:
        write_search_report(folder)
        raise UserError(
            "no trial has finished; look at their errors in "
            f"{folder / 'report.html'}, or go on with --resume"
        )
    _write_best(folder / "best.yaml", search, best)
    for number in dict.fromkeys([DEFAULT_TRIAL, best.number]):
        _measure_on_test_split(plan, folder, number)
    write_search_report(folder)


def _end_stopped_trials(search: Search, folder: Path) -> None:
    """Tells the trackers of trials whose own processes were ended early."""
    for trial in read_trials(folder):
        if trial.state == "stopped":
            own = trial_folder(folder, trial.number)
            run_trackers(trial_config(search, trial), own).end("stopped", files=RUN_FILES)


def _wait_for_first_trial(plan: Plan, folder: Path) -> None:
    """Waits for the nodes of one trial, if one is left: what trials say while they wait is lost."""
    trials, cluster = read_trials(folder), plan.search.default.cluster
    if len(trials) < plan.search.options.trials or "running" in {each.state for each in trials}:
        wait_for_nodes(
            plan.workers, cluster.cpus_per_worker, plan.gpu, minutes=cluster.start_minutes
        )


def deciding_attack(config: RunConfig) -> str:
    """Returns the attack that chooses the winner.

    AutoAttack by two-stage sampling stands for the whole one, unless `eval.attacks` has neither.
    """
    attacks = config.eval.attacks
    if {"autoattack", _SAMPLED} & set(attacks):
        return _SAMPLED
    return most_telling(attacks) or attacks[-1]


def _judge_finalists(plan: Plan, folder: Path) -> None:
    """Attacks the best trials' models on the validation split, which chose none of them yet."""
    search = plan.search
    attack = deciding_attack(search.default)
    chosen = finalists(read_trials(folder), search.options.finalists, search.options.objectives)
    waiting = [trial for trial in chosen if attack not in trial.validation]
    if not waiting:
        return
    images, labels, indices = validation_images(search.default)
    attacks = list(dict.fromkeys(["clean", attack]))
    with cluster_workers(search.default.cluster, plan.workers).ready() as run_shards:
        for trial in waiting:
            print(f"trial {trial.number} under {attack} on the validation split", flush=True)
            own = trial_folder(folder, trial.number)
            outcomes = measure(own / "model", images, labels, search.default, attacks, run_shards)
            found = {"best": outcomes}
            write_run_samples(own / VALIDATION_OUTCOMES, found, indices, labels.numpy())
            write_trial(folder, replace(trial, validation=table_of(outcomes)))


def validation_images(config: RunConfig) -> tuple[LazySplit, Tensor, NDArray[np.int64]]:
    """Returns the held-out training images, int64 labels `(N,)` and places in the split `(N,)`."""
    path, size = config.data.path, config.data.image_size
    labels = load_labels(path, "train")
    _, held_out = split_training(config, labels.numpy())
    images = LazySplit(path, "train", image_size=size, positions=held_out)
    return images, labels[torch.from_numpy(held_out)], held_out


def _measure_on_test_split(plan: Plan, folder: Path, number: int) -> None:
    """Ends a finished trial as every run ends, with `results.json`, unless it has done so."""
    trial = read_trial(folder, number)
    run_folder = trial_folder(folder, number)
    if trial.state == "finished" and not read_json(run_folder / "results.json"):
        print(f"trial {number} on the test split", flush=True)
        config = trial_config(plan.search, trial)
        results = finish(config, run_folder, workers=plan.workers)
        run_trackers(config, run_folder).end("finished", final_values(results), RUN_FILES)


def _write_best(file: Path, search: Search, best: Trial) -> None:
    """Writes the winner's complete settings, which `train --config` takes."""
    config = trial_config(search, best)
    words = "the default setting" if best.number == DEFAULT_TRIAL else "searched settings:"
    lines = [f"# Trial {best.number} of {file.parent.name}; {words}"]
    if best.number != DEFAULT_TRIAL:
        lines += [f"#   {key}: {value}" for key, value in best.settings.items()]
    lines += [
        f"# {name} on the validation split: {entry['accuracy']:.1f} % of {entry['samples']} images"
        for name, entry in best.validation.items()
    ]
    atomic_write_text(file, "\n".join(lines) + "\n" + dump_config(config))
