"""The parts of `python -m dynat_ray.benchmark`: from its options to what each of them measures.

A part imports what it measures, which takes seconds, when it is asked for.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from dynat_ray.errors import UserError

if TYPE_CHECKING:
    from dynat_ray.benchmarks.gpu import Asked

Part = Callable[[Namespace], dict[str, Any]]


def _step(options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks import accuracy, peak_memory, step_time

    peaks = peak_memory.measure(
        batch_size=options.batch_size, device=options.device, compiled=options.compile
    )
    found = step_time.measure(
        batch_size=options.batch_size,
        rounds=options.rounds,
        device=options.device,
        compiled=options.compile,
    )
    found["peak_memory_bytes"] = peaks
    if options.data:
        found["accuracy"] = accuracy.compare_accuracy(
            options.data, device=options.device, compiled=options.compile
        )
    return found


def _profile(options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks import profile

    found = profile.measure(
        model=options.model,
        batch_size=options.batch_size,
        device=options.device,
        compiled=options.compile,
    )
    print(profile.table(found), end="")
    return found


def _loader(options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks import loader_rows, loader_time

    found = loader_time.measure(path=options.data, device=options.device)
    rows = loader_rows.measure(path=options.data, rounds=options.rounds, device=options.device)
    print(loader_rows.table(rows), end="")
    return found | {"rows": rows}


def _attack(options: Namespace) -> dict[str, Any]:
    if options.images:
        return _sampling(options)
    from dynat_ray.benchmarks import attack_time

    return attack_time.measure(run=options.run, rounds=options.rounds, device=options.device)


def _sampling(options: Namespace) -> dict[str, Any]:
    if options.run is None:
        raise UserError("--images are those of a trained run: give --run RUN")
    from dynat_ray.benchmarks import eps_curve_time, sampling

    found = sampling.measure(
        run=options.run,
        images=options.images,
        record=options.json.with_suffix(".record"),
        data=options.data,
        workers=options.workers,
    )
    found["eps_curve"] = eps_curve_time.measure(run=options.run, data=options.data)
    return found


def _scaling(options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks import scaling

    found = scaling.measure(rounds=options.rounds)
    print(scaling.table(found["images_per_second"]), end="")
    scaling.write(found["images_per_second"], options.json.resolve().parent)
    return found


def _stopping(options: Namespace) -> dict[str, Any]:
    if options.run is None:
        raise UserError("'stopping' needs a trained run: give --run RUN")
    from dynat_ray.benchmarks import stopping
    from dynat_ray.benchmarks.turns import in_environment
    from dynat_ray.training.freed_memory import KEEP_FREED_MEMORY

    # As workers train.
    variables = KEEP_FREED_MEMORY if options.device == "cpu" else {}
    found = in_environment(
        variables, stopping.measure, options.run, rounds=options.rounds, device=options.device
    )
    print(
        f"attack of DynAT: {100 * found['passes_saved']:.0f} % of the passes saved, "
        f"{100 * found['time_saved']:.0f} % of the time; a whole step by one of PGD-AT: "
        f"{found['ratios']['dynat_step_by_pgd_at']['median']:.2f}"
    )
    return found


def _waiting(options: Namespace) -> dict[str, Any]:
    if options.run is None:
        raise UserError("'waiting' needs a run of DynAT: give --run RUN")
    from dynat_ray.benchmarks import waiting

    found = waiting.measure(
        options.run,
        batch_size=options.batch_size,
        rounds=options.rounds,
        device=options.device,
    )
    print(waiting.table(found), end="")
    return found


def _speedrun(options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks import speedrun

    found = speedrun.measure(options.data, device=options.device)
    print(speedrun.table(found), end="")
    return found


def _win(options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks import win

    return win.measure(
        options.data,
        options.json.with_suffix(".runs"),
        device=options.device,
        epochs=options.epochs or win.EPOCHS,
        images=options.images,
        width=options.width,
        compiled=options.compile,
    )


def _asked(options: Namespace) -> Asked:
    from dynat_ray.benchmarks.gpu import Asked

    return Asked(
        data=options.data,
        folder=options.json.with_suffix(".runs"),
        device=options.device,
        rounds=options.rounds,
        images=options.images,
        epochs=options.epochs,
        width=options.width,
        earlier=options.earlier,
    )


def _of_gpu(name: str, options: Namespace, **settings: int) -> dict[str, Any]:
    from dynat_ray.benchmarks import gpu

    found: dict[str, Any] = getattr(gpu, name)(_asked(options), **settings)
    return found


def _of_rehearsal(name: str, options: Namespace) -> dict[str, Any]:
    from dynat_ray.benchmarks.rehearsal import DEFAULT_IMAGES, Rehearsal, working_folder

    rehearsal = Rehearsal(
        options.data,
        working_folder(options.json),
        images=options.images or DEFAULT_IMAGES,
        rounds=options.rounds,
    )
    found: dict[str, Any] = getattr(rehearsal, name)()
    return found


_ALL: Mapping[str, Part] = {
    "step": _step,
    "profile": _profile,
    "loader": _loader,
    "attack": _attack,
    "scaling": _scaling,
}
# What is most important comes first; on an H200 all of it is to end in nine minutes.
_GPU: Mapping[str, Part] = {
    "step at batch 512": partial(_of_gpu, "step", batch_size=512),
    "step at batch 128": partial(_of_gpu, "step", batch_size=128),
    "dynat by pgd_at": partial(_of_gpu, "dynat_by_pgd_at"),
    "autoattack": partial(_of_gpu, "autoattack"),
    "wide_resnet28_10": partial(_of_gpu, "wide_resnet"),
    "speedrun": partial(_of_gpu, "speedrun"),
}
# Each goes on with what those before it have left.
_REHEARSAL: Mapping[str, Part] = {
    name: partial(_of_rehearsal, name)
    for name in ("images", "prepare", "epoch", "samples", "report", "evaluation")
}
# Several parts, one after the other.
GROUPS: Mapping[str, Mapping[str, Part]] = {"all": _ALL, "gpu": _GPU, "rehearsal": _REHEARSAL}
# The first two need a trained run, the others take minutes on a GPU and days on a CPU.
PARTS: Mapping[str, Part] = {
    **_ALL,
    "stopping": _stopping,
    "waiting": _waiting,
    "speedrun": _speedrun,
    "win": _win,
}
NEED_DATA = ("speedrun", "win", "gpu")
# Not prepared ones.
NEED_IMAGES = ("rehearsal",)
