"""Several methods under one recipe and several seeds, side by side on the cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dynat_ray.distributed.capacity import RUN_BYTES, side_by_side
from dynat_ray.distributed.cluster import connect, require_shared_storage
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.json_file import read_json

# isort: split
import ray

from dynat_ray.config import RunConfig
from dynat_ray.distributed.graceful_stop import until_stopped
from dynat_ray.distributed.ray_internals import HEAD_NODE
from dynat_ray.distributed.ray_trainer import Workers, resolve_workers
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.tracker_follower import TrackerFollower
from dynat_ray.distributed.training_run import resolve, run, with_absolute_paths
from dynat_ray.distributed.waiting_for_nodes import wait_for_nodes
from dynat_ray.errors import UserError
from dynat_ray.report.comparison_page import run_folder, write_comparison
from dynat_ray.settings import build_config, dump_config, flatten, override, read_settings
from dynat_ray.storage.lease import lease
from dynat_ray.storage.mirror import Mirror
from dynat_ray.storage.resumable_folder import FolderKind, open_folder
from dynat_ray.storage.run_folder import config_settings, read_run_config
from dynat_ray.storage.run_length import RunLength
from dynat_ray.tracking.run_trackers import COMPARISON_FILES, group_trackers
from dynat_ray.training.equal_compute import pgd_at_compute

# Only the head node has this resource. A run's own process takes a trace of it and no CPU, so that
# it never takes what the workers of some run wait for.
_ON_HEAD = {HEAD_NODE: 0.0001}
_FILE = "compare.yaml"
# What may be changed when a comparison is resumed; the rest would make its runs incomparable.
_MAY_CHANGE = ("cluster.", "train.seed", "train.trackers")
_COMPARISON = FolderKind(
    name="comparison",
    file=_FILE,
    read=lambda folder: config_settings(build_config([read_settings(folder / _FILE)])),
    may_change=lambda key, *_: key.startswith(_MAY_CHANGE),
    keeps_first=True,
)


@dataclass(frozen=True)
class ComparedRun:
    """One method with one seed.

    Attributes:
        label: The method, with the settings it was given.
        seed: `train.seed`.
        config: The run.
        after: Label of the method whose run with the same seed must have ended before; empty: none.
    """

    label: str
    seed: int
    config: RunConfig
    after: str = ""

    @property
    def name(self) -> str:
        """In words."""
        return f"{shown_text(self.label)}, seed {self.seed}"


def compare(
    common: RunConfig,
    runs: Sequence[ComparedRun],
    folder: Path,
    *,
    equal_compute: bool = False,
    first: str | None = None,
    resume: bool = False,
    out_given: bool = True,
) -> str:
    """Trains and evaluates all runs and writes the comparison, anew after each of them.

    Args:
        common: What the runs share; `compare.yaml` keeps it.
        runs: What to compare, in the order of the table; a run comes after the one it waits for.
        folder: Of the comparison, absolute.
        equal_compute: All runs get `train.compute`; unless `common` has one, what PGD-AT spends in
            its epochs.
        first: Label of the method that others are compared with; None: the first run's.
        resume: Go on with what is there: runs that have ended stay, others go on.
        out_given: The user said where run folders go (on several nodes someone must).

    Returns:
        The table, for the terminal.

    Raises:
        UserError: What the user can correct; runs that failed, after all others have ended.
    """
    common, runs = _checked(common, runs)
    if equal_compute and common.train.compute is None:
        common, runs = _at_equal_compute(common, runs)
    connect()
    require_shared_storage(out_given)
    workers = resolve_workers(common.cluster)
    slots = side_by_side(workers.fewest, common.cluster.cpus_per_worker, workers.gpu, RUN_BYTES)
    _open(folder, common, resume=resume)
    seeds = _seeds_by_label(runs)
    print(
        f"compare   {len(seeds)} methods, {len(runs)} runs, {min(slots, len(runs))} side by side, "
        f"{workers.fewest} {'GPU' if workers.gpu else 'CPU'} worker{'s' * (workers.fewest > 1)} "
        f"each\neach      {RunLength.of(common.train)}\nfolder    {folder}",
        flush=True,
    )

    def on_end(number: int, ended: ComparedRun, words: str) -> None:
        print(f"[{number}/{len(runs)}] {ended.name}: {words}", flush=True)
        write_comparison(folder, seeds, first=first)

    wait = partial(_wait_for_first_run, common, runs, folder, workers)
    trackers = group_trackers("comparison", common, folder, {"methods": list(seeds)})
    with TrackerFollower(trackers):
        errors = _run_all(runs, folder, slots, on_end, wait)
        table = write_comparison(folder, seeds, first=first)
    trackers.end("failed" if errors else "finished", files=COMPARISON_FILES)
    if errors:
        raise UserError(
            f"{len(errors)} of {len(runs)} runs failed: {'; '.join(errors)}. The table of the "
            f"others is in {folder / 'compare.md'}; add --resume to try the failed ones again"
        )
    return table


def _seeds_by_label(runs: Sequence[ComparedRun]) -> dict[str, list[int]]:
    seeds: dict[str, list[int]] = {}
    for each in runs:
        seeds.setdefault(each.label, []).append(each.seed)
    return seeds


def _checked(common: RunConfig, runs: Sequence[ComparedRun]) -> tuple[RunConfig, list[ComparedRun]]:
    """Returns all with absolute paths; raises `UserError` for what can't work."""
    if common.eval.beside:
        raise UserError(
            "eval.beside is true, but a comparison uses every place for runs; leave it out"
        )
    # What a run waits for is not there yet; its own check comes when it starts.
    for each in {one.label: one for one in runs if not one.after}.values():
        first, _, _ = resolve(each.config)
    path = first.data.path
    return with_absolute_paths(common, path), [
        replace(each, config=with_absolute_paths(each.config, path)) for each in runs
    ]


def _at_equal_compute(
    common: RunConfig, runs: Sequence[ComparedRun]
) -> tuple[RunConfig, list[ComparedRun]]:
    """Returns all with the compute that PGD-AT spends in the epochs of `common`, in their place."""
    compute = {"train.compute": pgd_at_compute(common)}
    return override(common, compute), [
        replace(each, config=override(each.config, compute)) for each in runs
    ]


def _run_all(
    runs: Sequence[ComparedRun],
    folder: Path,
    slots: int,
    on_end: Callable[[int, ComparedRun, str], None],
    wait: Callable[[], None],
) -> list[str]:
    """Does all runs, after `wait`; returns a sentence for each that failed."""
    stop = StopFlag()
    schedule = _Schedule(runs, folder, slots, on_end, stop)

    def work() -> list[str]:
        wait()
        return schedule.finish()

    return until_stopped(work, stop)


def _wait_for_first_run(
    common: RunConfig, runs: Sequence[ComparedRun], folder: Path, workers: Workers
) -> None:
    """Waits for the nodes of one run, if one is left: what runs say while they wait is lost."""
    if not all(_is_done(r.config, run_folder(folder, r.label, r.seed)) for r in runs):
        wait_for_nodes(
            workers.fewest,
            common.cluster.cpus_per_worker,
            workers.gpu,
            minutes=common.cluster.start_minutes,
        )


def _open(folder: Path, common: RunConfig, *, resume: bool) -> None:
    """Creates a comparison's folder, or opens it again under the settings that it began with."""
    text = dump_config(common)
    open_folder(_COMPARISON, folder, config_settings(common), text, resume=resume)
    if mirror := Mirror.of(folder):
        # A command that is killed sends nothing any more.
        mirror.push(only=(_FILE,))


class _Schedule:
    """The runs of a comparison: those that wait, run and have ended.

    Args:
        runs: All.
        folder: Of the comparison.
        slots: How many run side by side.
        on_end: Called after each run with how many have ended, the run, and how it ended.
        stop: Of the command.
    """

    def __init__(
        self,
        runs: Sequence[ComparedRun],
        folder: Path,
        slots: int,
        on_end: Callable[[int, ComparedRun, str], None],
        stop: StopFlag,
    ) -> None:
        self._stop = stop
        self._folder, self._slots, self._on_end = folder, slots, on_end
        self._waiting = list(runs)
        self._running: dict[Any, ComparedRun] = {}
        # Label and seed to what went wrong; empty: nothing.
        self._ended: dict[tuple[str, int], str] = {}
        self._start = ray.remote(num_cpus=0, max_retries=0, resources=_ON_HEAD)(_one_run)

    def finish(self) -> list[str]:
        """Does all runs that are left; returns a sentence for each that failed."""
        while self._waiting or self._running:
            self._fill_slots()
            if self._running:
                (answer, *_), _ = ray.wait(list(self._running), num_returns=1)
                self._end(self._running.pop(answer), _error_of(answer))
        return [
            f"{label}, seed {seed}: {error}"
            for (label, seed), error in self._ended.items()
            if error
        ]

    def _fill_slots(self) -> None:
        ready = [r for r in self._waiting if not r.after or (r.after, r.seed) in self._ended]
        for each in ready:
            if len(self._running) == self._slots:
                return
            self._waiting.remove(each)
            folder = run_folder(self._folder, each.label, each.seed)
            # What has ended or can't be done takes no slot.
            if self._ended.get((each.after, each.seed)):
                self._end(each, f"the run of '{each.after}' that it needs has failed")
            elif _is_done(each.config, folder):
                self._end(each, "")
            else:
                command = f"{each.name} of the comparison {self._folder}"
                answer = self._start.remote(asdict(each.config), str(folder), command, self._stop)
                self._running[answer] = each

    def _end(self, run: ComparedRun, error: str) -> None:
        self._ended[run.label, run.seed] = error
        self._on_end(len(self._ended), run, f"failed: {error}" if error else "done")


def _is_done(config: RunConfig, folder: Path) -> bool:
    """Returns whether a run has ended under these settings, wherever it ran and was followed."""
    if not read_json(folder / "results.json"):
        return False
    there = read_run_config(folder)
    train = replace(there.train, trackers=config.train.trackers)
    there = replace(there, cluster=config.cluster, train=train)
    return dump_config(there) == dump_config(config)


def _one_run(content: dict[str, Any], folder: str, command: str, stop: StopFlag) -> str:
    """Runs in a process of its own; returns what the user can correct, empty if all went well."""
    config = build_config([flatten(content)])
    try:
        with lease(Path(folder), "run", wait=True):
            run(config, Path(folder), resume=True, command=command, stop=stop)
    except UserError as error:
        return str(error)
    return ""


def _error_of(answer: Any) -> str:
    try:
        error: str = ray.get(answer)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
        return "its process died, perhaps for want of memory"
    except ray.exceptions.RayError as failure:
        return str(failure).strip().splitlines()[-1].rstrip(".")
    return error
