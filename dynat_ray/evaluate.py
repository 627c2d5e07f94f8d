"""`python -m dynat_ray.evaluate`: robust accuracy of a run or model on a prepared data set."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat_ray import command_line
from dynat_ray.attacks.checks import CHECK_SAMPLES, check_attacks, check_model, check_outcomes
from dynat_ray.attacks.evaluate import run_shards
from dynat_ray.attacks.identity import identify
from dynat_ray.attacks.inputs import check_samples, count_classes
from dynat_ray.attacks.outcomes import FinishedShard, collect
from dynat_ray.attacks.progress import progress_bar
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.attacks.request import Request, complete
from dynat_ray.attacks.results import results_of, table_of, write_json, write_samples
from dynat_ray.attacks.shards import Shard, plan_shards
from dynat_ray.attacks.state import StateFile, open_state
from dynat_ray.attacks.subject import Subject, image_size_for, load_subject, require_fit
from dynat_ray.data import DatasetInfo, balanced_subset, load_info, load_test_images
from dynat_ray.data.stored import load_labels
from dynat_ray.errors import UserError


def main(argv: Sequence[str]) -> Path:
    """Evaluates what the arguments name; returns the JSON file that was written."""
    options = _parse(argv)
    subject = load_subject(options.model)
    names = ("data", "norm", "eps", "attacks", "samples", "seed", "batch_size", "out")
    request = complete(subject, **{name: getattr(options, name) for name in names})
    return evaluate(subject, request, workers=options.workers, resume=options.resume)


def evaluate(subject: Subject, request: Request, *, workers: int | None, resume: bool) -> Path:
    """Runs an evaluation and writes JSON, per-sample parquet and, while it runs, its state.

    Args:
        subject: The model.
        request: What to measure.
        workers: 1: in this process; more: Ray workers; None: one per GPU, else 1.
        resume: Go on with the state file beside the output.

    Returns:
        The JSON file.
    """
    started = time.monotonic()
    samples = _load(subject, request)
    attacks = get_attacks(request.attacks)
    costly = balanced_subset(samples.labels.numpy(), request.costly_samples)
    shards = plan_shards(
        len(samples.images),
        attacks,
        eps=request.eps,
        batch_size=request.batch_size,
        costly_positions=costly,
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
    identity = identify(subject.model, samples.data, settings)
    # Twice as many as are attacked, since those that are wrong without attack are left out.
    few = balanced_subset(samples.labels.numpy(), 2 * CHECK_SAMPLES)
    checked = samples.images[few], samples.labels[few]
    checks = check_model(subject.model, *checked)
    workers = workers or _default_workers()
    print(
        f"{subject.name} on {samples.data.name}: {len(samples.images)} test images, "
        f"{request.norm}, {', '.join(request.attacks)}, {workers} worker{'s' * (workers > 1)}"
    )
    state_path = request.out.with_suffix(".state.jsonl")
    with open_state(state_path, identity, shards, resume=resume) as state:
        finished = _finish(subject, samples, state, request, workers)
        outcomes = collect(finished, attacks, samples.classes)
        for found in outcomes.values():
            checks += check_outcomes(found)
        if max(request.eps) > 0 and any(attack.costly for attack in attacks):
            checks += check_attacks(
                subject.model,
                *checked,
                norm=request.norm,
                eps=max(request.eps),
                seed=request.seed,
            )
        samples_path = request.out.with_suffix(".parquet")
        write_samples(samples_path, outcomes, samples.indices, samples.labels.numpy())
        content = {
            **results_of(outcomes),
            "model": subject.name,
            "data": str(request.data),
            **settings,
            "eps": request.eps[0] if len(request.eps) == 1 else list(request.eps),
            "classes": samples.classes,
            "checks": [check.entry() for check in checks],
            "checksums": {"model": identity["model"], "data": identity["data"]},
            "seconds": round(time.monotonic() - started, 1),
            "outcomes": samples_path.name,
        }
        write_json(request.out, content)
    print(table_of(outcomes))
    for check in checks:
        if check.flagged:
            print(f"  check '{check.name}': {check.sentence}")
    return request.out


@dataclass(frozen=True)
class _Samples:
    """Test images `(N, C, H, W)`, their labels and places in the test split, `(N,)`."""

    data: DatasetInfo
    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]
    classes: int


def _load(subject: Subject, request: Request) -> _Samples:
    """Returns the samples, once it is sure that they and the model fit."""
    data = load_info(request.data)
    indices = balanced_subset(load_labels(request.data, "test").numpy(), request.samples)
    images, labels = load_test_images(
        request.data, request.samples, image_size=image_size_for(subject, data)
    )
    check_samples(images, labels)
    require_fit(subject.model, data, images)
    return _Samples(data, images, labels, indices, count_classes(subject.model, images, labels))


def _finish(
    subject: Subject, samples: _Samples, state: StateFile, request: Request, workers: int
) -> list[FinishedShard]:
    """Does the shards that are left, and returns all."""
    finished = list(state.finished)
    with progress_bar(len(samples.images), radii=len(request.eps)) as show:
        for shard, found in finished:
            show(shard, found)
        for shard, found in _execute(
            subject, samples.images, samples.labels, state.left, request, workers
        ):
            state.add(shard, found)
            finished.append((shard, found))
            show(shard, found)
    return finished


def _execute(
    subject: Subject,
    images: Tensor,
    labels: Tensor,
    shards: Sequence[Shard],
    request: Request,
    workers: int,
) -> Iterator[FinishedShard]:
    if not shards:
        return
    if workers > 1:
        # Ray takes seconds to import and to start, which one worker need not wait for.
        from dynat_ray.distributed.evaluation import run_shards_on_ray

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
    model = subject.model.to("cuda" if torch.cuda.is_available() else "cpu")
    with _one_thread():
        yield from run_shards(model, images, labels, shards, norm=request.norm, seed=request.seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread, as each of many workers has: results depend on it in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _default_workers() -> int:
    if "RAY_ADDRESS" in os.environ:
        from dynat_ray.distributed.session import cluster_total

        return max(1, int(cluster_total("GPU")))
    return max(1, torch.cuda.device_count())


def _parse(argv: Sequence[str]) -> Namespace:
    parser = command_line.Parser(prog="python -m dynat_ray.evaluate", description=__doc__)
    add = parser.add_argument
    add(
        "model",
        metavar="RUN_OR_MODEL",
        help="folder, timm name or module:function",
    )
    add("--data", metavar="DIR", help="prepared data set; default: the run's")
    add("--norm", choices=("Linf", "L2"), help="default: the run's")
    add("--eps", help="radius, such as 8/255; several, comma-separated, give a curve")
    add("--attacks", help="comma-separated, such as clean,pgd-20,autoattack")
    add("--samples", type=int, help="class-balanced number of test images for every attack")
    add("--seed", type=int, help="default: the run's")
    add("--workers", type=int, help="Ray workers; 1 needs no Ray; default: one per GPU, else 1")
    add("--batch-size", type=int, help="images per forward pass")
    add("--out", metavar="FILE", help="JSON file; default: evaluation.json in the run's folder")
    add("--resume", action="store_true", help="go on where a stopped evaluation was")
    options = parser.parse_args(argv)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; it must be at least 1")
    return options


if __name__ == "__main__":
    command_line.run(main)
