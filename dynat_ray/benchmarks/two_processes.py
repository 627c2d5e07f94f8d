"""Two processes train side by side: how long one waits for the other, measured."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from numpy.typing import NDArray

from dynat_ray.benchmarks.trained_run import TrainedRun
from dynat_ray.benchmarks.turns import Progress
from dynat_ray.data import Batch
from dynat_ray.distributed.rendezvous import listen_on_little
from dynat_ray.method_settings import method_settings
from dynat_ray.methods.dynat import DynAT
from dynat_ray.training.step import Stepper

_PROCESSES = 2


class _Dealt(DynAT):
    """DynAT that deals its attacks as it does on many workers."""

    deals_from = _PROCESSES


def measure(run: Path, *, batch_size: int, steps: int) -> dict[str, dict[str, float]]:
    """Takes steps on the same samples in each of three ways, with one CPU thread a process.

    Args:
        run: Run folder, whose network and images are taken.
        batch_size: Images of a process's batch.
        steps: How many each way takes.

    Returns:
        What part of a step, in percent, the processes wait on average: for PGD-AT, and for DynAT
        without and with its attacks dealt evenly. By CPU time, in which other programs matter
        less, and by forward units, in which they don't.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _work, (run, batch_size, steps, folder), nprocs=_PROCESSES, start_method="forkserver"
        )
        found = [np.load(Path(folder, f"{rank}.npz")) for rank in range(_PROCESSES)]
        # (processes, steps, 2) each.
        took = {name: np.stack([each[name] for each in found]) for name in found[0]}
    return {
        label: {name: waiting(each[..., column]) for name, each in took.items()}
        for column, label in enumerate(("2, CPU time", "2, forward units"))
    }


def waiting(work: NDArray[np.float64]) -> float:
    """Returns what part of a step, in percent, workers wait on average for the slowest.

    Args:
        work: How long each works, `(workers, steps)`.
    """
    return round(100 * float(1 - work.mean() / work.max(axis=0).mean()), 1)


def _work(rank: int, run: Path, batch_size: int, steps: int, folder: str) -> None:
    """Takes one process's part of the steps, and leaves in a file how long it worked."""
    torch.set_num_threads(1)
    listen_on_little(one_machine=True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=_PROCESSES
    )
    trained = TrainedRun(run, batch_size, torch.device("cpu"))
    steppers = _steppers(trained)
    took = {name: np.zeros((steps, 2)) for name in steppers}
    progress = Progress("waiting", steps) if rank == 0 else None
    # The first is a warm-up.
    for step in range(-1, steps):
        batch = _part(trained, batch_size, rank, step)
        for name, stepper in steppers.items():
            began = time.process_time()
            outcome = stepper.step(batch, 0, 0, _PROCESSES * batch_size)
            took[name][step] = time.process_time() - began, outcome.passes.units
        if progress is not None and step >= 0:
            progress.done(f"step {step + 1} of {steps} of two processes")
    np.savez(Path(folder, f"{rank}.npz"), **took)  # type: ignore[arg-type]
    dist.barrier()
    dist.destroy_process_group()


def _steppers(trained: TrainedRun) -> dict[str, Stepper]:
    dealt = trained.stepper(trained.settings)
    dealt.method = _Dealt(trained.settings, trained.context)
    return {
        "pgd_at": trained.stepper(method_settings()["pgd_at"]()),
        "dynat, not balanced": trained.stepper(trained.settings),
        "dynat": dealt,
    }


def _part(trained: TrainedRun, batch_size: int, rank: int, step: int) -> Batch:
    """Returns a process's part of a step's random images."""
    images = torch.cat([batch.images for batch in trained.batches])
    labels = torch.cat([batch.labels for batch in trained.batches])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(step + 1))
    own = order[rank * batch_size :][:batch_size]
    return Batch(images[own], labels[own], own)
