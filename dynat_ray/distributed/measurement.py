"""A whole evaluation, from request to files: shards, checks, examples, JSON, page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynat_ray.acceleration.twin import cpu_kernels_status
from dynat_ray.attacks.registry import get_attacks, get_probe
from dynat_ray.data import balanced_subset
from dynat_ray.distributed.kept_shards import finish_shards
from dynat_ray.errors import UserError
from dynat_ray.evaluation.checks import CHECK_SAMPLES, check_attacks, check_model, check_outcomes
from dynat_ray.evaluation.exact import best_device, on_cpu
from dynat_ray.evaluation.examples import Example, find_examples
from dynat_ray.evaluation.identity import checksum_answers, identify
from dynat_ray.evaluation.in_process import run_shards
from dynat_ray.evaluation.inputs import count_classes
from dynat_ray.evaluation.outcomes import FinishedShard, Outcome, collect
from dynat_ray.evaluation.probe_results import probe_lines, summarise
from dynat_ray.evaluation.progress_bar import progress_bar
from dynat_ray.evaluation.request import Request
from dynat_ray.evaluation.results import (
    beside,
    results_of,
    robustbench_path,
    table_of,
    write_json,
    write_samples,
)
from dynat_ray.evaluation.robustbench import robustbench_entry
from dynat_ray.evaluation.samples import Samples, load_samples
from dynat_ray.evaluation.shards import Shard, plan_shards
from dynat_ray.evaluation.state_file import StateFile, open_state
from dynat_ray.evaluation.subject import Subject, require_fit
from dynat_ray.evaluation.transfer import check_transfer
from dynat_ray.radius import format_radius
from dynat_ray.report.evaluation_page import write_evaluation_page
from dynat_ray.report.side_by_side import Evaluation

_STATE = ".state.jsonl"


def evaluate(
    subject: Subject,
    request: Request,
    *,
    workers: int | None,
    resume: bool,
    surrogate: nn.Module | None = None,
    others: Sequence[Evaluation] = (),
) -> Path:
    """Runs an evaluation; writes JSON, per-sample parquet, a page and, while it runs, its state.

    Args:
        subject: The model.
        request: What to measure.
        workers: 1: in this process; more: Ray workers; None: a Ray worker for each GPU of the
            cluster that `RAY_ADDRESS` names; else of this machine, if it has several; else 1.
        resume: Go on with the state file beside the output.
        surrogate: Another model whose adversarial images are tried; None: a substitute's.
        others: Evaluations to show beside this one.

    Returns:
        The JSON file.
    """
    started = time.monotonic()
    samples = load_samples(subject, request)
    if surrogate is not None:
        _require_surrogate_fits(surrogate, samples)
    attacks = get_attacks(request.attacks)
    probes = [get_probe(name) for name in request.distances + request.corruptions]
    costly = balanced_subset(samples.labels.numpy(), request.costly_samples)
    shards = plan_shards(
        len(samples.images),
        attacks,
        eps=request.eps,
        batch_size=request.batch_size,
        costly_positions=costly,
        probes=probes,
    )
    settings = {
        "norm": request.norm,
        "eps": list(request.eps),
        "attacks": list(request.attacks),
        "samples": len(samples.images),
        "costly_samples": len(costly),
        "seed": request.seed,
        "batch_size": request.batch_size,
    }
    if probes:
        settings["probes"] = [probe.name for probe in probes]
    model = subject.model.to(best_device())
    # Twice as many as are attacked, since those that are wrong without attack are left out.
    few = balanced_subset(samples.labels.numpy(), 2 * CHECK_SAMPLES)
    checked = samples.images[few], samples.labels[few]
    batch: dict[str, Any] = {"batch_size": request.batch_size}
    checks = check_model(model, *checked, **batch)
    random = any(check.name == "randomness" and check.flagged for check in checks)
    answers = "" if random else checksum_answers(model, checked[0], **batch)
    identity = identify(model, samples.data, settings, answers=answers)
    workers, on_ray = (workers, workers > 1) if workers else _default_workers()
    print(
        f"{subject.name} on {samples.data.name}: {len(samples.images)} test images, "
        f"{request.norm}, {', '.join(request.attacks)}, {workers} worker{'s' * (workers > 1)}"
    )
    state_path = beside(request.out, _STATE)
    with open_state(state_path, identity, shards, resume=resume) as state:
        finished = _finish(subject, samples, state, request, workers if on_ray else 0)
        outcomes = collect([f for f in finished if not f[0].probes], attacks, samples.classes)
        measured = collect([f for f in finished if f[0].probes], probes, samples.classes)
        probed = measured.get(0.0, {})
        largest = max(request.eps)
        threat = {"norm": request.norm, "eps": largest, "seed": request.seed, **batch}
        for eps, found in outcomes.items():
            radius = format_radius(eps, request.norm) if len(outcomes) > 1 else ""
            checks += check_outcomes(found, radius)
        if largest > 0 and any(attack.costly for attack in attacks):
            checks += check_attacks(model, *checked, **threat)
            checks += check_transfer(model, *checked, **threat, surrogate=surrogate)
        examples = _examples(subject, samples, outcomes[largest], threat) if largest > 0 else []
        samples_path = beside(request.out, ".parquet")
        write_samples(samples_path, outcomes, probed, samples.indices, samples.labels.numpy())
        content = {
            **results_of(outcomes),
            **summarise(probed, samples.images, request.norm),
            "model": subject.name,
            "data": str(request.data),
            **settings,
            "eps": request.eps[0] if len(request.eps) == 1 else list(request.eps),
            "eps_ref": asdict(request.eps_ref) if request.eps_ref else None,
            "classes": samples.classes,
            "class_names": samples.data.classes,
            "cpu_kernels": cpu_kernels_status(best_device()),
            "checks": [check.entry() for check in checks],
            "checksums": {"model": identity["model"], "data": identity["data"]},
            "seconds": round(time.monotonic() - started + state.seconds, 1),
            "outcomes": samples_path.name,
        }
        write_json(request.out, content)
        entry = robustbench_entry(outcomes, subject, samples.data, checks, request.norm)
        if entry is not None:
            write_json(robustbench_path(request.out), entry)
        write_evaluation_page(request.out, examples, others)
    print(table_of(outcomes, request.norm))
    for line in probe_lines(content):
        print(f"  {line}")
    for check in checks:
        if check.flagged:
            print(f"  check '{check.name}': {check.sentence}")
    return request.out


def _examples(
    subject: Subject, samples: Samples, found: Mapping[str, Outcome], threat: Mapping[str, Any]
) -> list[Example]:
    """Returns pictures of images that some attack fooled at the largest eps."""
    fooled = np.unique(
        np.concatenate([outcome.positions[outcome.fooled_by >= 0] for outcome in found.values()])
    )
    return find_examples(
        subject.model, samples.images, samples.labels, samples.indices, fooled, **threat
    )


def _require_surrogate_fits(surrogate: nn.Module, samples: Samples) -> None:
    try:
        require_fit(surrogate, samples.data, samples.images)
        count_classes(surrogate, samples.images, samples.labels)
    except UserError as error:
        raise UserError(f"--surrogate: {error}") from None


def _finish(
    subject: Subject, samples: Samples, state: StateFile, request: Request, workers: int
) -> list[FinishedShard]:
    """Does the shards that are left, on Ray workers or (0) in this process, and returns all."""
    shards = [*state.left, *(shard for shard, _ in state.finished)]
    probed = sum(len(shard.positions) for shard in shards if shard.probes)
    with progress_bar(len(samples.images), radii=len(request.eps), probed=probed) as show:
        return finish_shards(
            state,
            beside(request.out, _STATE),
            lambda left: _execute(subject, samples.images, samples.labels, left, request, workers),
            show,
        )


def _execute(
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    shards: Sequence[Shard],
    request: Request,
    workers: int,
) -> Iterator[FinishedShard]:
    if workers:
        # Ray takes seconds to import and to start, which one worker need not wait for.
        from dynat_ray.distributed.shard_workers import run_shards_on_ray

        with on_cpu(subject.model):
            yield from run_shards_on_ray(
                subject.model,
                images,
                labels,
                shards,
                norm=request.norm,
                seed=request.seed,
                workers=workers,
            )
        return
    with _one_thread():
        yield from run_shards(
            subject.model, images, labels, shards, norm=request.norm, seed=request.seed
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread, as each of many workers has: results depend on it in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _default_workers() -> tuple[int, bool]:
    """Returns how many, and whether they are Ray's: a cluster's one GPU may be on another node."""
    if "RAY_ADDRESS" in os.environ:
        from dynat_ray.distributed.cluster import cluster_total

        gpus = int(cluster_total("GPU"))
        return max(1, gpus), gpus > 0
    gpus = torch.cuda.device_count()
    return max(1, gpus), gpus > 1
