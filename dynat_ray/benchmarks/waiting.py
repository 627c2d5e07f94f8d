"""Who waits for whom when many workers train DynAT: simulated from a run's samples.

A step ends when its slowest worker does. PGD-AT gives every worker the same work. DynAT's follows
from how many of its samples are attacked, and for how many steps: what a run has recorded of each
sample says so, and timed steps say how long that takes. Attacks are dealt evenly
(`methods.balancing`); what is learnt of them stays where the samples are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dynat_ray.benchmarks import two_processes
from dynat_ray.benchmarks.trained_run import TrainedRun
from dynat_ray.benchmarks.turns import Progress, cpu_threads, seconds_of
from dynat_ray.config import MethodSettings
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.forward_units import LEARNING
from dynat_ray.method_settings import method_settings
from dynat_ray.report.reading import read_run, read_samples
from dynat_ray.training.step import StepOutcome, Stepper

WORKERS = (8, 64, 512)
# Batches of these parts of the whole one are timed, so that the work differs.
_PARTS = (1.0, 0.75, 0.5)
_STEPS = 100
# Two processes take so many for each round.
_MEASURED = 4
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
    """

    attacked: NDArray[np.bool_]
    passes: NDArray[np.int64]


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
        parts of a step, in percent, that workers wait on average, for PGD-AT, and for DynAT
        without and with its attacks dealt evenly; and the part of the attacked samples, in
        percent, that others attack. `measured`: what two processes wait, on a CPU.
    """
    work = read_work(run)
    with cpu_threads(threads):
        trained = TrainedRun(run, batch_size, torch.device(device))
        plain = method_settings()["pgd_at"]()
        costs = {each.name: _cost(trained, each, rounds) for each in (trained.settings, plain)}
    units = batch_size * (LEARNING + 2.0 * trained.config.attack.steps)
    waiting = {}
    for workers in WORKERS:
        even = np.full((_STEPS, workers), units)
        own, balanced, moved = units_of_steps(work, workers, batch_size)
        waiting[workers] = {
            "pgd_at": _waiting(costs["pgd_at"], even),
            "dynat, not balanced": _waiting(costs["dynat"], own),
            "dynat": _waiting(costs["dynat"], balanced),
            "moved": moved,
        }
    measured: dict[str, dict[str, float]] = {}
    if device == "cpu":
        measured = two_processes.measure(run, batch_size=batch_size, steps=_MEASURED * rounds)
    return {
        "run": run.name,
        "batch_size": batch_size,
        "attacked": round(float(work.attacked.mean()), 3),
        "cost": {name: vars(cost) for name, cost in costs.items()},
        "workers": waiting,
        "measured": measured,
        "ratios": {},
    }


def table(found: Mapping[str, Any]) -> str:
    """Returns what part of a step workers wait, as Markdown."""
    kinds = list(next(iter(found["workers"].values())))
    lines = ["| workers | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for workers, waits in {**found["workers"], **found["measured"]}.items():
        cells = [f"{waits[kind]:.1f} %" if kind in waits else "" for kind in kinds]
        lines.append(f"| {workers} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read_work(run: Path) -> Work:
    """Reads the middle epoch of a run of DynAT.

    Raises:
        UserError: It has not recorded which samples were attacked.
    """
    files = read_run(run).sample_files
    if not files:
        raise UserError(f"'waiting' needs a run with samples/; {run} has none")
    epoch = read_samples(files[sorted(files)[len(files) // 2]], ["eps", "attack_steps"])
    steps, attacked = epoch["attack_steps"].astype(np.int64), epoch["eps"] > 0
    # Whoever stops before the end is seen to have stopped by one more pass.
    return Work(attacked, np.where(attacked, steps + (steps < steps.max()), 0))


def learning_units(attacked: NDArray[np.bool_], *, sizes: int) -> Any:
    """Returns the forward units of batches but for their attacks: clean and outer passes.

    Args:
        attacked: `(..., B)`.
        sizes: In so many sizes batches shrink, every other step; 0: by single samples, every step,
            as on a CPU.
    """
    batch = attacked.shape[-1]
    return (1 + LEARNING) * batch + LEARNING * _filled_up(attacked.sum(axis=-1), batch, sizes)


def attack_units(passes: NDArray[np.int64], *, sizes: int) -> Any:
    """Returns the forward units of batches' attacks.

    Args:
        passes: Of each sample's attack, `(..., B)`.
        sizes: As of `learning_units`.
    """
    batch, every = passes.shape[-1], _BETWEEN_READINGS if sizes else 1
    units = np.zeros(passes.shape[:-1], dtype=np.int64)
    for step in range(int(passes.max(initial=0))):
        units += 2 * _filled_up((passes > step - step % every).sum(axis=-1), batch, sizes)
    return units


def _filled_up(counts: Any, batch: int, sizes: int) -> Any:
    grain = max(1, batch // sizes) if sizes else 1
    return np.minimum(batch, -(-counts // grain) * grain)


def units_of_steps(
    work: Work, workers: int, batch_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Simulates steps on samples drawn by chance.

    Returns:
        The units of each worker's part, `(steps, workers)`, where all attack their own samples and
        where attacks are dealt evenly; and how many of the attacked samples others attack then, in
        percent.
    """
    random = np.random.default_rng(0)
    own, dealt, moved = [], [], []
    for _ in range(_STEPS):
        chosen = random.integers(len(work.passes), size=workers * batch_size)
        parts = chosen.reshape(workers, batch_size)
        attacked = work.attacked[parts]
        learning = learning_units(attacked, sizes=_SIZES)
        own.append(learning + attack_units(work.passes[parts], sizes=_SIZES))
        # Who moves has as many passes as anybody, so that any even deal stands for it.
        evenly = chosen[np.argsort(work.attacked[chosen], kind="stable")]
        even_parts = evenly.reshape(batch_size, workers).T
        dealt.append(learning + attack_units(work.passes[even_parts], sizes=_SIZES))
        counts = attacked.sum(axis=1)
        moved.append((counts - -(-counts.sum() // workers)).clip(min=0).sum() / counts.sum())
    return (
        np.array(own, dtype=np.float64),
        np.array(dealt, dtype=np.float64),
        round(100 * float(np.mean(moved)), 1),
    )


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
