"""`python -m dynat_ray.compare`: several methods under one recipe and several seeds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dynat_ray import cli, run_options
from dynat_ray.attack_names import check_attack_names
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.method_settings import method_settings
from dynat_ray.settings import DEFAULT_METHOD, Settings, build_config, flatten
from dynat_ray.value_types import Positive, PositiveInt, check_value

if TYPE_CHECKING:
    from dynat_ray.distributed.comparison import ComparedRun

_STANDARD = "standard"
# What all methods have in common unless the user says otherwise: runs are independent, so one
# worker each and many side by side is what uses a cluster best.
_COMMON: Settings = {
    "eval.attacks": ["clean", "pgd-20", "cw", "autoattack"],
    "cluster.workers": 1,
}


@dataclass(frozen=True)
class Variant:
    """A method with settings of its own, as written: `dynat` or `dynat:budgets=false:beta=3`.

    Attributes:
        label: As it was written.
        settings: By full key, `method.name` among them.
    """

    label: str
    settings: Settings


def read_variants(text: str) -> list[Variant]:
    """Returns the methods of a list such as `trades,dynat,dynat:weights=false`, or `all`.

    `dynat:ablation` stands for the method whole and without each of its parts.

    `standard` comes first wherever a method needs its model.

    Raises:
        UserError: An unknown method, or something that is no setting.
    """
    known = method_settings()
    variants = []
    for label in _labels(text):
        name, *parts = label.split(":")
        if name not in known:
            raise unknown_name("method", name, known)
        settings: Settings = {"method.name": name}
        for part in parts:
            key, equals, value = part.partition("=")
            if not equals:
                raise UserError(f"--methods {label}: '{part}' is not KEY=VALUE")
            settings[f"method.{key}"] = value
        variants.append(Variant(label, settings))
    if any(known[each.settings["method.name"]].standard_model_key for each in variants):
        standard = Variant(_STANDARD, {"method.name": _STANDARD})
        variants = [standard, *(each for each in variants if each.label != _STANDARD)]
    return variants


def _labels(text: str) -> list[str]:
    """Returns the methods of a list, each once; the first is what others are compared with."""
    written = [part.strip() for part in text.split(",")]
    if text == "all":
        written = sorted(method_settings(), key=lambda name: name != DEFAULT_METHOD)
    return list(dict.fromkeys(label for each in written for label in _with_parts(each)))


def _with_parts(written: str) -> list[str]:
    """Returns what is written, or for `NAME:ablation` the method whole and without each part."""
    name, _, rest = written.partition(":")
    if rest != "ablation" or name not in method_settings():
        return [written]
    parts = method_settings()[name].ablation
    if not parts:
        raise UserError(f"--methods {written}: '{name}' has no parts that switch off")
    return [name, *(f"{name}:{part}" for part in parts)]


def main(argv: Sequence[str]) -> str:
    """Compares as the arguments say and returns the path of the page."""
    options, (recipe, given), overrides = run_options.parse_with_settings(_parser(), argv)
    for key in overrides:
        if key.startswith("method."):
            raise UserError(
                f"--{key} would mean another thing for each method; write it as "
                f"--methods NAME:{key.removeprefix('method.')}=VALUE"
            )
    check_value("--seeds", options.seeds, PositiveInt)
    variants = read_variants(options.methods)
    layers = [recipe, _COMMON, given, overrides]
    common = build_config(layers)
    _say_whose([recipe, given], common.method.name, variants)
    check_attack_names(common.eval.attacks)
    if compute := _compute(options, common):
        layers.append(compute)
        common = build_config(layers)

    # Ray takes seconds to import: after the settings are known to be right.
    from dynat_ray.distributed.comparison import compare
    from dynat_ray.storage.places import choose_place, open_place
    from dynat_ray.storage.run_folder import default_name

    name = options.name or default_name(options.recipe, "compare")
    where = common.cluster.storage, options.out, name
    chosen = choose_place(*where)

    def plan(folder: Path) -> list[ComparedRun]:
        return _plan(common.train.seed, options.seeds, variants, layers, folder)

    waiting = dict.fromkeys(each.config.method.name for each in plan(chosen.folder) if each.after)
    if chosen.address and waiting:
        raise UserError(
            f"{' and '.join(waiting)} start from the model of another run, which workers can "
            "read in a folder only; give --out a folder that all machines share, or leave "
            "them out of --methods"
        )
    with open_place("comparison", *where, resume=options.resume) as place:
        runs = plan(place.folder)
        table = compare(
            common,
            runs,
            place.folder,
            equal_compute=options.equal == "compute",
            first=_labels(options.methods)[0],
            resume=options.resume,
            out_given=place.given,
        )
    print(f"\n{table}\n")
    return place.written("compare.html")


def _say_whose(layers: Sequence[Settings], method: str, variants: Sequence[Variant]) -> None:
    """Says which settings are of one method alone: others have their defaults, and may lose by it.

    Args:
        layers: The recipe's settings, and those of a file.
        method: Whose they are.
        variants: What is compared.
    """
    own = {key: value for layer in layers for key, value in layer.items() if _is_of_method(key)}
    others = [each.label for each in variants if each.settings["method.name"] != method]
    if own and others:
        settings = ", ".join(f"{key}={value}" for key, value in own.items())
        print(
            f"note: {settings} holds for {method} alone; {', '.join(others)} "
            f"{'has' if len(others) == 1 else 'have'} settings of their own (NAME:KEY=VALUE)",
            file=sys.stderr,
            flush=True,
        )


def _is_of_method(key: str) -> bool:
    return key.startswith("method.") and key != "method.name"


def _compute(options: argparse.Namespace, common: RunConfig) -> Settings:
    """Returns the setting that `--compute N` stands for, if it is given.

    Raises:
        UserError: It does not go with the other options and settings.
    """
    compute = check_value("--compute", options.compute, Positive | None)
    if compute is not None and options.equal != "compute":
        raise UserError("--compute belongs to --equal compute; give both, or leave --compute out")
    if common.train.compute is None:
        return {} if compute is None else {"train.compute": compute}
    if options.equal == "epochs":
        raise UserError("--equal epochs and train.compute exclude each other; give one of them")
    if compute is not None:
        raise UserError("--compute and train.compute are both given; leave out one of them")
    return {}


def _plan(
    first_seed: int,
    seeds: int,
    variants: Sequence[Variant],
    layers: Sequence[Settings],
    folder: Path,
) -> list[ComparedRun]:
    """Returns all runs; those that need a model of standard training come after its run."""
    from dynat_ray.distributed.comparison import ComparedRun
    from dynat_ray.report.comparison_page import run_folder

    runs = []
    for seed in range(first_seed, first_seed + seeds):
        for each in variants:
            own = [*layers, each.settings, {"train.seed": seed}]
            key = method_settings()[each.settings["method.name"]].standard_model_key
            needed = bool(key) and not _given(own, key)
            if needed:
                own.append({key: str(run_folder(folder, _STANDARD, seed))})
            config = build_config(own)
            runs.append(ComparedRun(each.label, seed, config, _STANDARD if needed else ""))
    return runs


def _given(layers: Sequence[Settings], key: str) -> bool:
    return any(flatten(layer).get(key) for layer in layers)


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        prog="python -m dynat_ray.compare",
        description="Trains and evaluates methods under one recipe and several seeds, as many "
        "runs side by side as fit on the cluster. Settings that all share can be given as "
        "--section.key VALUE (python -m dynat_ray.train --help lists them).",
        epilog=f"methods: {', '.join(method_settings())}",
    )
    add = parser.add_argument
    add(
        "--methods",
        default="all",
        help="comma-separated, or all (default); settings of one: dynat:weights=false:beta=3; "
        "dynat:ablation: whole and without each of its parts",
    )
    add(
        "--equal",
        choices=("epochs", "compute"),
        help="what all methods get alike: train.epochs (default), or compute: what PGD-AT spends "
        "in train.epochs",
    )
    add(
        "--compute",
        metavar="N",
        help="with --equal compute: units a training image, as train.compute",
    )
    add("--seeds", type=int, default=1, help="how many, counted from train.seed (default: 1)")
    run_options.add_run_options(
        parser,
        "comparison",
        named_after="recipe, compare",
        resume="; methods and seeds may change",
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
