"""What DynAT spares by wrong samples that are left alone and by early stops, and what its step
costs beside one of PGD-AT."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dynat_ray.benchmarks.trained_run import TrainedRun
from dynat_ray.benchmarks.turns import cpu_threads, in_turn, seconds_of, spread
from dynat_ray.config import MethodSettings
from dynat_ray.data import Batch
from dynat_ray.method_settings import method_settings
from dynat_ray.training.step import Stepper


def measure(
    run: Path,
    *,
    batch_size: int = 128,
    rounds: int = 3,
    device: str = "cpu",
    threads: int = 0,
    compiled: bool = False,
) -> dict[str, Any]:
    """Times DynAT's attack on training images as it is, and with all steps for all samples.

    Args:
        run: Run folder of a trained model; its threat, attack, precision and data are used, and
            its DynAT settings if it has any.
        batch_size: Images of a batch; four batches are attacked.
        rounds: How often, both in turn.
        device: Where.
        threads: CPU threads; 0: all cores.
        compiled: `torch.compile` the whole steps, though the run did not.

    Returns:
        `passes_saved` and `time_saved` (shares of the full attack, the clean forward pass
        included in the time), `paid`, the second by the first, and among `ratios` the time of
        DynAT's whole training step by that of PGD-AT's on the same weights and batches.
    """
    with cpu_threads(threads):
        trained = TrainedRun(run, batch_size, torch.device(device))
        everything = replace(trained.settings, early_stop=False, misclassified="uniform")
        trained.attack(trained.settings)
        passes = {}

        def attack(name: str, settings: MethodSettings) -> float:
            passes[name], seconds = trained.attack(settings)
            return seconds

        attacks = {
            "as it is": partial(attack, "as it is", trained.settings),
            "all": partial(attack, "all", everything),
        }
        seconds = in_turn("stopping", attacks, rounds)
        times = [1 - a / b for a, b in zip(*seconds.values(), strict=True)]
        steps = {}
        for settings in (trained.settings, method_settings()["pgd_at"]()):
            every_batch = partial(
                _step_all, trained.stepper(settings, compiled=compiled), trained.batches
            )
            every_batch()  # warm-up
            steps[settings.name] = partial(seconds_of, every_batch, device)
        seconds = in_turn("step", steps, rounds)
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    passes_saved = 1 - passes["as it is"] / passes["all"]
    time_saved = statistics.median(times)
    return {
        "run": run.name,
        "passes_saved": round(passes_saved, 3),
        "time_saved": round(time_saved, 3),
        "paid": round(time_saved / passes_saved, 2) if passes_saved > 0 else None,
        "ratios": {"dynat_step_by_pgd_at": spread(ratios)},
    }


def _step_all(stepper: Stepper, batches: Sequence[Batch]) -> None:
    for number, batch in enumerate(batches):
        stepper.step(batch, 0, number, len(batch.labels))
