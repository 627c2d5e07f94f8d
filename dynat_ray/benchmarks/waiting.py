"""Who waits for whom when many workers train DynAT: simulated from a run's samples.

A step ends when its slowest worker does. PGD-AT gives every worker the same work. DynAT's follows
from how many of its samples are attacked, and for how many steps: what a run has recorded of each
sample says so, and timed steps say how long that takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dynat_ray.benchmarks.trained_run import TrainedRun
from dynat_ray.benchmarks.turns import Progress, cpu_threads, seconds_of
from dynat_ray.config import MethodSettings
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.method_settings import method_settings
from dynat_ray.report.reading import read_run, read_samples
from dynat_ray.training.step import StepOutcome, Stepper

WORKERS = (8, 64, 512)
# Batches of these parts of the whole one are timed, so that the work differs.
_PARTS = (1.0, 0.75, 0.5)
_STEPS = 100
# Equal work takes equally long but for this part of it, as docs/scaling.md assumes.
_SPREAD = 0.02
# An accelerator's batches shrink in eighths, and every other attack step, see `perturb.compaction`.
_SIZES, _BETWEEN_READINGS = 8, 2


@dataclass(frozen=True)
class Work:
    """What a run has recorded of its training samples in an epoch, `(N,)` each.

    Attributes:
        attacked: Which were attacked.
        passes: Gradients with respect to its image that a sample's attack took.
        before: Which were attacked in the epoch before.
    """

    attacked: NDArray[np.bool_]
    passes: NDArray[np.int64]
    before: NDArray[np.bool_]


@dataclass(frozen=True)
class Cost:
    """A step takes `fixed + per_unit * units` seconds.

    Attributes:
        fixed: Seconds.
        per_unit: Seconds.
        spread: Standard deviation of the timed steps around that, as a part of it: that of a
            machine which others may use, too.
    """

    fixed: float
    per_unit: float
    spread: float


def measure(
    run: Path, *, batch_size: int = 128, rounds: int = 3, device: str = "cpu", threads: int = 1
) -> dict[str, Any]:
    """Times steps of DynAT and of PGD-AT, and simulates many workers.

    Args:
        run: Run folder of DynAT; samples are those of its middle epoch.
        batch_size: Images of a worker's batch.
        rounds: How often each batch is timed.
        device: Where; on a CPU it is CPU time that counts, so that other programs matter little.
        threads: CPU threads; 0: all cores.

    Returns:
        `cost` of both methods, `attacked` (share of samples) and `workers`: by their number the
        parts of a step, in percent, that workers wait on average, for PGD-AT and for each of the
        ways in which DynAT's samples can be dealt, see `ways_to_deal`.
    """
    work = read_work(run)
    with cpu_threads(threads):
        trained = TrainedRun(run, batch_size, torch.device(device))
        plain = method_settings()["pgd_at"]()
        costs = {each.name: _cost(trained, each, rounds) for each in (trained.settings, plain)}
    units = batch_size * (2.0 + 2.0 * trained.config.attack.steps)
    waiting = {}
    for workers in WORKERS:
        even = np.full((_STEPS, workers), units)
        waiting[workers] = {"pgd_at": _waiting(costs["pgd_at"], even)} | {
            f"dynat, {name}": _waiting(costs["dynat"], _units(work, deal, workers, batch_size))
            for name, deal in ways_to_deal(work).items()
        }
    return {
        "run": run.name,
        "batch_size": batch_size,
        "attacked": round(float(work.attacked.mean()), 3),
        "cost": {name: vars(cost) for name, cost in costs.items()},
        "workers": waiting,
        "ratios": {},
    }


def table(found: Mapping[str, Any]) -> str:
    """Returns what part of a step workers wait, as Markdown."""
    kinds = list(next(iter(found["workers"].values())))
    lines = ["| workers | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for workers, waits in found["workers"].items():
        cells = [f"{waits[kind]:.1f} %" for kind in kinds]
        lines.append(f"| {workers} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read_work(run: Path) -> Work:
    """Reads the middle epoch of a run of DynAT.

    Raises:
        UserError: It has not recorded which samples were attacked, in two epochs at least.
    """
    files = read_run(run).sample_files
    middle = sorted(files)[len(files) // 2] if len(files) > 1 else 0
    columns = ["index", "eps", "attack_steps"]
    if middle - 1 not in files:
        raise UserError(f"'waiting' needs a run of two epochs with samples/; {run} has none")
    before, now = (read_samples(files[epoch], columns) for epoch in (middle - 1, middle))
    steps, attacked = now["attack_steps"].astype(np.int64), now["eps"] > 0
    was_attacked = dict(zip(before["index"].tolist(), before["eps"] > 0, strict=True))
    # Whoever stops before the end is seen to have stopped by one more pass.
    passes = np.where(attacked, steps + (steps < steps.max()), 0)
    return Work(
        attacked,
        passes,
        np.array([was_attacked.get(each, False) for each in now["index"].tolist()]),
    )


# From chosen samples `(workers * batch,)` to an order, of which each worker takes every so-manyth.
Deal = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def ways_to_deal(work: Work) -> dict[str, Deal]:
    """Returns ways to deal a global batch's samples to workers, by name.

    `as drawn`: by chance, as it is. `by the epoch before`: as many to each of those that were
    attacked then, and of the others. `by attacked`: of those that are now, which is known after
    the clean forward pass.
    """

    def evenly(flags: NDArray[np.bool_]) -> Deal:
        return lambda chosen: chosen[np.argsort(flags[chosen], kind="stable")]

    return {
        "as drawn": lambda chosen: chosen,
        "by the epoch before": evenly(work.before),
        "by attacked": evenly(work.attacked),
    }


def units_of(attacked: NDArray[np.bool_], passes: NDArray[np.int64], *, sizes: int) -> Any:
    """Returns the forward units of batches: clean and outer passes, and the attack's.

    Args:
        attacked: `(..., B)`.
        passes: Of each sample's attack, `(..., B)`.
        sizes: In so many sizes batches shrink, every other step; 0: by single samples, every step,
            as on a CPU.
    """
    batch = attacked.shape[-1]
    grain, every = (max(1, batch // sizes), _BETWEEN_READINGS) if sizes else (1, 1)

    def filled_up(counts: Any) -> Any:
        return np.minimum(batch, -(-counts // grain) * grain)

    units = 3 * batch + 2 * filled_up(attacked.sum(axis=-1))
    for step in range(int(passes.max(initial=0))):
        units = units + 2 * filled_up((passes > step - step % every).sum(axis=-1))
    return units


def _units(work: Work, deal: Deal, workers: int, batch_size: int) -> NDArray[np.float64]:
    """Returns the units of each worker's part in some steps, `(steps, workers)`."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(_STEPS):
        chosen = random.integers(len(work.passes), size=workers * batch_size)
        parts = deal(chosen).reshape(batch_size, workers).T
        found.append(units_of(work.attacked[parts], work.passes[parts], sizes=_SIZES))
    return np.array(found, dtype=np.float64)


def _waiting(cost: Cost, units: NDArray[np.float64], spread: float = _SPREAD) -> float:
    """Returns what part of a step, in percent, workers wait on average for the slowest."""
    noise = np.random.default_rng(1).standard_normal(units.shape)
    seconds = (cost.fixed + cost.per_unit * units) * (1 + spread * noise)
    return round(100 * float(1 - seconds.mean() / seconds.max(axis=1).mean()), 1)


def _cost(trained: TrainedRun, settings: MethodSettings, rounds: int) -> Cost:
    """Times steps of batches of several sizes, and fits a line through them."""
    stepper, device = trained.stepper(settings), trained.device.type
    batches = [
        _first(batch, int(part * len(batch.labels))) for batch in trained.batches for part in _PARTS
    ]
    for batch in batches[: len(_PARTS)]:
        _timed(stepper, batch, device)  # warm-up
    progress = Progress("waiting", rounds * len(batches))
    units, seconds = [], []
    for _ in range(rounds):
        for batch in batches:
            some_units, some_seconds = _timed(stepper, batch, device)
            units.append(some_units)
            seconds.append(some_seconds)
            size = f"batch {len(batch.labels)}"
            progress.done(f"{settings.name:<8} {size:<10} {some_seconds:9.3f} s")
    per_unit, fixed = np.polyfit(units, seconds, 1)
    ratios = np.array(seconds) / (fixed + per_unit * np.array(units))
    return Cost(float(fixed), float(per_unit), float(ratios.std()))


def _timed(stepper: Stepper, batch: Batch, device: str) -> tuple[int, float]:
    """Returns the forward units of a step, and the seconds it took: on a CPU those of its time."""
    outcomes: list[StepOutcome] = []

    def step() -> None:
        outcomes.append(stepper.step(batch, 0, 0, len(batch.labels)))

    began = time.process_time()
    passed = seconds_of(step, device)
    if device == "cpu":
        passed = time.process_time() - began
    return outcomes[0].passes.units, passed


def _first(batch: Batch, size: int) -> Batch:
    images, labels, indices = (each[:size] for each in (batch.images, batch.labels, batch.indices))
    return replace(batch, images=images, labels=labels, indices=indices)
