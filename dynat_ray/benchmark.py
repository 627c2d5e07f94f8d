"""`python -m dynat_ray.benchmark`: what the package's speed claims are measured with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dynat_ray import interrupt
from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.cli import ArgumentParser, run
from dynat_ray.errors import Stopped, UserError


def main(argv: Sequence[str]) -> Path | str:
    """Measures the parts asked for, prints a table and writes the JSON file."""
    options = _parse(argv)
    _make_folder(options.json)
    found: dict[str, Any] = {"ratios": {}}
    parts = _ALL if options.part == "all" else {options.part: _PARTS[options.part]}
    stopped = False
    for part, measure in parts.items():
        print(f"measuring {part} ...", flush=True)
        try:
            found[part] = measure(options)
        except ModuleNotFoundError as error:
            if options.part != "all":
                raise UserError(f"'{part}' needs the package {error.name}") from error
            print(f"left out: the package {error.name} is not installed")
        except KeyboardInterrupt:
            if len(found) == 1:
                raise
            stopped = True
            break
        else:
            found["ratios"] |= found[part].pop("ratios", {})
        # What a long measurement found is not lost if the next one fails.
        atomic_write_text(options.json, json.dumps(found, indent=2) + "\n")
        if stopped := bool(interrupt.received()):
            break
    print(_table(found), end="", flush=True)
    if stopped:
        raise Stopped(f"what was measured is in {options.json}")
    return options.json


def _parse(argv: Sequence[str]) -> Any:
    """Returns the options, checked."""
    parser = ArgumentParser(
        prog="python -m dynat_ray.benchmark",
        description="Measures speed as ratios: our loops and others in turn, in one run; and "
        "whether DynAT wins.",
    )
    parser.add_argument("part", nargs="?", default="all", choices=[*_PARTS, "all"])
    parser.add_argument("--data", type=Path, help="prepared data set, for robust accuracy too")
    parser.add_argument("--run", type=Path, help="trained run, for attack and stopping")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), metavar="FILE")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default_device)
    parser.add_argument("--batch-size", type=int, default=64, help="of a training step")
    parser.add_argument("--model", default="preact_resnet18", help="of the profile")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loop is timed")
    parser.add_argument(
        "--images",
        type=int,
        default=0,
        help="of attack: test images of --run on which AutoAttack is measured whole and by "
        "sampling, and as a curve over eps; of win: at most so many training and test images; "
        "both go on where they were stopped",
    )
    parser.add_argument("--epochs", type=int, default=15, help="of PGD-AT in win")
    parser.add_argument("--width", type=int, default=64, help="of the network in win")
    parser.add_argument("--workers", type=int, default=1, help="Ray workers for --images")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours")
    options = parser.parse_args(argv)
    for name in ("rounds", "batch_size", "workers", "epochs", "width"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if options.images < 0:
        raise UserError("--images must be at least 0, which is all")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but PyTorch finds no GPU with a working driver here")
    return options


def _table(found: dict[str, Any]) -> str:
    """Returns what was found against other loops, a line each."""
    lines = [
        f"{name:<20} {ratio['median']:6.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})"
        for name, ratio in found["ratios"].items()
    ]
    step = found.get("step", {})
    lines += [
        f"{name:<20} {peak / 2**30:6.2f} GiB at the peak of a step"
        for name, peak in step.get("peak_memory_bytes", {}).items()
    ]
    for name, paired in step.get("accuracy", {}).get("difference", {}).items():
        low, high = paired["interval"]
        lines.append(f"{name:<20} PGD-20 {paired['mean']:+.1f} points ({low:+.1f} to {high:+.1f})")
    return "".join(f"{line}\n" for line in lines)


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--json {file} can't be written: {error}") from None


def _step(options: Any) -> dict[str, Any]:
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


def _profile(options: Any) -> dict[str, Any]:
    from dynat_ray.benchmarks import profile

    found = profile.measure(
        model=options.model,
        batch_size=options.batch_size,
        device=options.device,
        compiled=options.compile,
    )
    print(profile.table(found), end="")
    return found


def _loader(options: Any) -> dict[str, Any]:
    from dynat_ray.benchmarks import loader_time

    return loader_time.measure(path=options.data, device=options.device)


def _attack(options: Any) -> dict[str, Any]:
    if options.images:
        return _sampling(options)
    from dynat_ray.benchmarks import attack_time

    return attack_time.measure(run=options.run, rounds=options.rounds, device=options.device)


def _sampling(options: Any) -> dict[str, Any]:
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


def _scaling(options: Any) -> dict[str, Any]:
    from dynat_ray.benchmarks import scaling

    found = scaling.measure(rounds=options.rounds)
    print(scaling.table(found["images_per_second"]), end="")
    scaling.write(found["images_per_second"], options.json.resolve().parent)
    return found


def _stopping(options: Any) -> dict[str, Any]:
    if options.run is None:
        raise UserError("'stopping' needs a trained run: give --run RUN")
    from dynat_ray.benchmarks import stopping
    from dynat_ray.benchmarks.turns import in_environment
    from dynat_ray.training.device import KEEP_FREED_MEMORY

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


def _speedrun(options: Any) -> dict[str, Any]:
    if options.data is None:
        raise UserError("'speedrun' needs prepared CIFAR-10 images: give --data DIR")
    from dynat_ray.benchmarks import speedrun

    found = speedrun.measure(options.data, device=options.device)
    for name, entry in found.items():
        print(
            f"{name:<10} {entry['seconds']:8.1f} s of training, clean {entry['clean']:.1f} %, "
            f"AutoAttack {entry['autoattack']:.1f} % on {entry['samples']} images"
        )
    return found


def _win(options: Any) -> dict[str, Any]:
    if options.data is None:
        raise UserError("'win' needs prepared images: give --data DIR")
    from dynat_ray.benchmarks import win

    return win.measure(
        options.data,
        options.json.with_suffix(".runs"),
        device=options.device,
        epochs=options.epochs,
        images=options.images,
        width=options.width,
        compiled=options.compile,
    )


_ALL = {
    "step": _step,
    "profile": _profile,
    "loader": _loader,
    "attack": _attack,
    "scaling": _scaling,
}
# The first needs a trained run, the others take minutes on a GPU and days on a CPU.
_PARTS = _ALL | {"stopping": _stopping, "speedrun": _speedrun, "win": _win}


if __name__ == "__main__":
    run(main)
