"""`python -m dynat_ray.benchmark`: what the package's speed claims are measured with."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynat_ray import interrupt
from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.benchmarks.parts import GROUPS, NEED_DATA, NEED_IMAGES, PARTS
from dynat_ray.cli import ArgumentParser, run
from dynat_ray.errors import Stopped, UserError


def main(argv: Sequence[str]) -> Path | str:
    """Measures the parts asked for, prints a table and writes the JSON file."""
    options = _parse(argv)
    _make_folder(options.json)
    found: dict[str, Any] = {"ratios": {}}
    parts = GROUPS.get(options.part) or {options.part: PARTS[options.part]}
    failed: list[str] = []
    stopped = False
    for part, measure in parts.items():
        print(f"measuring {part} ...", flush=True)
        try:
            found[part] = measure(options)
        except KeyboardInterrupt:
            if len(found) == 1:
                raise
            stopped = True
            break
        except ModuleNotFoundError as error:
            if len(parts) == 1:
                raise UserError(f"'{part}' needs the package {error.name}") from error
            print(f"left out: the package {error.name} is not installed")
        except Exception as error:
            # What fails must not cost what comes after it.
            if len(parts) == 1:
                raise
            found[part] = {"error": f"{type(error).__name__}: {error}"}
            failed.append(f"{part}: {error}")
            if not isinstance(error, UserError):
                traceback.print_exc()
        else:
            found["ratios"] |= found[part].pop("ratios", {})
        # What a long measurement found is not lost if the next one is cut off.
        atomic_write_text(options.json, json.dumps(found, indent=2) + "\n")
        if stopped := bool(interrupt.received()):
            break
    print(_table(found), end="", flush=True)
    if stopped:
        raise Stopped(f"what was measured is in {options.json}")
    if failed:
        raise UserError(f"{'; '.join(failed)} (what could be measured is in {options.json})")
    return options.json


def _parse(argv: Sequence[str]) -> Any:
    """Returns the options, checked."""
    parser = ArgumentParser(
        prog="python -m dynat_ray.benchmark",
        description="Measures speed as ratios: our loops and others in turn, in one run; and "
        "whether DynAT wins.",
    )
    parser.add_argument("part", nargs="?", default="all", choices=[*PARTS, *GROUPS])
    parser.add_argument(
        "--data",
        type=Path,
        help="prepared data set, for robust accuracy too; of rehearsal: a folder of small images",
    )
    parser.add_argument("--run", type=Path, help="trained run, for attack, stopping and waiting")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), metavar="FILE")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda, if there is one")
    parser.add_argument("--batch-size", type=int, default=64, help="of a training step")
    parser.add_argument("--model", default="preact_resnet18", help="of the profile")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loop is timed")
    parser.add_argument(
        "--images",
        type=int,
        default=0,
        help="of attack: test images of --run on which AutoAttack is measured whole and by "
        "sampling, and as a curve over eps; of win and gpu: at most so many training and test "
        "images; of rehearsal: how many are made (default: 200,000); attack and win go on where "
        "they were stopped",
    )
    parser.add_argument("--epochs", type=int, help="of PGD-AT in win (default: 15); of gpu's runs")
    parser.add_argument("--width", type=int, default=64, help="of the networks in win and gpu")
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="FILE",
        help="JSON file of an earlier speedrun or win, whose PGD-AT gpu shows beside its own run",
    )
    parser.add_argument("--workers", type=int, default=1, help="Ray workers for --images")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours")
    options = parser.parse_args(argv)
    for name in ("rounds", "batch_size", "workers", "epochs", "width"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if options.images < 0:
        raise UserError("--images must be at least 0, which is all")
    if options.part in NEED_DATA and options.data is None:
        raise UserError(f"'{options.part}' needs prepared images: give --data DIR")
    if options.part in NEED_IMAGES and not (options.data and options.data.is_dir()):
        raise UserError(
            f"'{options.part}' makes images of small ones: give their folder, --data DIR"
        )
    options.device = _device(options.device)
    _check_files(options)
    return options


def _device(asked: str | None) -> str:
    """Returns where to measure; `UserError` if that is a GPU which is not there."""
    # PyTorch takes seconds to import: after the options are known to be right.
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, but PyTorch finds no GPU with a working driver here")
    return asked or ("cuda" if torch.cuda.is_available() else "cpu")


def _check_files(options: Any) -> None:
    """Raises `UserError` for a file that a part would miss only after minutes."""
    from dynat_ray.benchmarks.speedrun import stored_reference
    from dynat_ray.data import load_info

    if options.data and options.part not in NEED_IMAGES:
        load_info(options.data)
    if options.earlier:
        stored_reference(options.earlier)
    if options.part in NEED_IMAGES:
        from dynat_ray.benchmarks.rehearsal import working_folder

        if (folder := working_folder(options.json)).exists():
            raise UserError(f"{folder} is there already, of another rehearsal; remove it")


def _table(found: dict[str, Any]) -> str:
    """Returns what was found against other loops, a line each."""
    width = max([20, *map(len, found["ratios"])])
    lines = [
        f"{name:<{width}} {ratio['median']:6.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})"
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


if __name__ == "__main__":
    run(main)
