"""`python -m dynat_ray.benchmark`: what the package's speed claims are measured with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dynat_ray.command_line import ArgumentParser, run
from dynat_ray.errors import UserError

_PARTS = ("step", "profile", "loader", "attack", "scaling")
# Needs a trained run.
_STOPPING = "stopping"


def main(argv: Sequence[str]) -> Path | str:
    """Measures the parts asked for, prints a table and writes the JSON file."""
    parser = ArgumentParser(
        prog="python -m dynat_ray.benchmark",
        description="Measures speed as ratios: our loops and others in turn, in one run.",
    )
    parser.add_argument("part", nargs="?", default="all", choices=[*_PARTS, _STOPPING, "all"])
    parser.add_argument("--data", type=Path, help="prepared data set, for robust accuracy too")
    parser.add_argument("--run", type=Path, help="trained run, for `stopping`")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), metavar="FILE")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=64, help="of a training step")
    parser.add_argument("--model", default="preact_resnet18", help="of the profile")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loop is timed")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.batch_size < 1:
        raise UserError("--rounds and --batch-size must be at least 1")
    if options.part == _STOPPING and options.run is None:
        raise UserError("'stopping' needs a trained run: give --run RUN")
    found: dict[str, Any] = {"ratios": {}}
    parts = _PARTS if options.part == "all" else (options.part,)
    for part in parts:
        found[part] = _measure(part, options)
        found["ratios"] |= found[part].pop("ratios", {})
    for name, ratio in found["ratios"].items():
        print(f"{name:<20} {ratio['median']:6.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})")
    for name, paired in found.get("step", {}).get("accuracy", {}).get("difference", {}).items():
        low, high = paired["interval"]
        print(f"{name}: PGD-20 {paired['mean']:+.1f} points ({low:+.1f} to {high:+.1f})")
    options.json.write_text(json.dumps(found, indent=2) + "\n")
    return options.json


def _measure(part: str, options: Any) -> dict[str, Any]:
    print(f"measuring {part} ...", flush=True)
    if part == "step":
        from dynat_ray.benchmarks import step

        found = step.measure(
            batch_size=options.batch_size,
            rounds=options.rounds,
            device=options.device,
            compiled=options.compile,
        )
        if options.data:
            found["accuracy"] = step.compare_accuracy(options.data, device=options.device)
        return found
    if part == "profile":
        from dynat_ray.benchmarks import profile

        found = profile.measure(
            model=options.model,
            batch_size=options.batch_size,
            device=options.device,
            compiled=options.compile,
        )
        print(profile.table(found), end="")
        return found
    if part == _STOPPING:
        from dynat_ray.benchmarks import stopping

        found = stopping.measure(options.run, rounds=options.rounds, device=options.device)
        print(
            f"attack of DynAT: {100 * found['passes_saved']:.0f} % of the passes saved, "
            f"{100 * found['time_saved']:.0f} % of the time"
        )
        return found
    if part == "loader":
        from dynat_ray.benchmarks import loader

        return loader.measure(path=options.data, device=options.device)
    if part == "attack":
        from dynat_ray.benchmarks import attack

        return attack.measure()
    from dynat_ray.benchmarks import scaling

    found = scaling.measure(rounds=options.rounds)
    print(scaling.table(found["images_per_second"]), end="")
    scaling.write(found["images_per_second"], options.json.resolve().parent)
    return found


if __name__ == "__main__":
    run(main)
