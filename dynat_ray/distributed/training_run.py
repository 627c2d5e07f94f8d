"""A whole run, from settings to results: folder, training, evaluation, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.config import RunConfig
from dynat_ray.data import DatasetInfo, load_info
from dynat_ray.data.preparing import cached_dataset
from dynat_ray.distributed.cluster import (
    connect,
    require_everywhere,
    require_shared_storage,
)
from dynat_ray.distributed.evaluator import cluster_workers
from dynat_ray.distributed.final_table import measure_run
from dynat_ray.distributed.ray_trainer import fit, resolve_workers
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.tracker_follower import TrackerFollower
from dynat_ray.errors import UserError
from dynat_ray.models.arguments import check_arguments
from dynat_ray.models.hub import has_prefix
from dynat_ray.models.starting import description_of
from dynat_ray.object_store import absolute_place, user_place
from dynat_ray.report import write_report
from dynat_ray.settings import override
from dynat_ray.storage.description import describe_run
from dynat_ray.storage.environment import write_environment
from dynat_ray.storage.failure import failure_recorded
from dynat_ray.storage.mirror import Mirror
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.storage.run_length import RunLength
from dynat_ray.tracking.available import check_trackers
from dynat_ray.tracking.run_trackers import RUN_FILES, final_values, run_trackers
from dynat_ray.training.equal_compute import check_compute
from dynat_ray.training.final_models import is_trained
from dynat_ray.training.setup import check_run
from dynat_ray.user_path import user_path


def run(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    out_given: bool = True,
    command: str = "",
    stop: StopFlag | None = None,
) -> dict[str, Any]:
    """Trains, evaluates and reports; with `resume` goes on where it was.

    Args:
        config: The run; an empty `data.path` is prepared first.
        folder: The run's folder.
        resume: Go on, or start if there is nothing yet.
        out_given: The user said where run folders go (on several nodes someone must).
        command: What the run is part of; empty: it is this process's command.
        stop: Of that command; None: it is this process's.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: What the user can correct.
    """
    config, info, loader = resolve(config)
    connect()
    require_shared_storage(out_given)
    workers = resolve_workers(config.cluster, beside=config.eval.beside)
    changed = open_run_folder(folder, config, resume=resume)
    mirror = Mirror.of(folder)
    require_everywhere([config.data.path, *([] if mirror else [folder / "config.yaml"])])
    facts = workers.facts() | {"loader": loader}
    write_environment(folder, facts, command)
    print(describe_run(config, info, mirror.address if mirror else folder, facts), flush=True)
    for change in changed:
        print(f"changed since the run began: {change}", flush=True)
    trackers = run_trackers(config, folder)
    with failure_recorded(folder), TrackerFollower(trackers):
        if not is_trained(folder, RunLength.of(config.train)):
            fit(config, folder, stop=stop)
        results = finish(config, folder, workers=workers.most)
    trackers.end("finished", final_values(results), RUN_FILES)
    if mirror is not None:
        mirror.push()
    return results


def resolve(config: RunConfig) -> tuple[RunConfig, DatasetInfo, str]:
    """Prepares an empty `data.path`, and checks everything that can be checked without workers.

    Returns:
        The config with absolute paths, its data set, and the loader that will be used.

    Raises:
        UserError: What the user can correct.
    """
    path = user_place(config.data.path) if config.data.path else cached_dataset(config.data)
    config = with_absolute_paths(config, path)
    info = load_info(path)
    get_attacks(config.eval.attacks)
    check_trackers(config.train.trackers)
    loader = check_run(config, info, say=print)
    check_compute(config)
    return config, info, loader


def with_absolute_paths(config: RunConfig, data: Path | str) -> RunConfig:
    """Returns the config as its run writes it down: elsewhere, relative paths mean other places.

    Args:
        config: The run.
        data: Folder or address of its data set.

    Raises:
        UserError: The network is that of `model.init_from`, which names no model.
    """
    absolute = {"data.path": absolute_place(data)}
    keys = {"data.extra_path", "model.init_from", config.method.standard_model_key}
    for key in keys - {""}:
        section, _, name = key.partition(".")
        given = getattr(getattr(config, section), name)
        if given and not has_prefix(given):
            is_data = key == "data.extra_path"
            absolute[key] = absolute_place(given) if is_data else str(user_path(given).resolve())
    return with_named_network(override(config, absolute))


def with_named_network(config: RunConfig) -> RunConfig:
    """Returns the config with the network of `model.init_from` where `model.name` is `auto`."""
    if config.model.name != "auto":
        return config
    if not config.model.init_from:
        raise UserError(
            "model.name is auto, the network of the weights to start from: give them as "
            "--model.init_from, or another --model.name"
        )
    found = description_of(config.model.init_from)
    arguments = check_arguments(found.architecture, found.arguments, config.model.init_from)
    kwargs = arguments | config.model.kwargs
    return override(config, {"model.name": found.architecture, "model.kwargs": kwargs})


def finish(config: RunConfig, folder: Path, *, workers: int) -> dict[str, Any]:
    """Evaluates a trained run on the test split, writes its results and report.

    Args:
        config: The run, resolved.
        folder: Its folder.
        workers: How many evaluate, at most.

    Returns:
        What `results.json` holds.
    """
    results = measure_run(config, folder, workers=cluster_workers(config.cluster, workers))
    file = folder / "results.json"
    try:
        atomic_write_text(file, json.dumps(results, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{file} can't be written: {error}") from None
    write_report(folder)
    return results
