"""`python -m dynat_ray.tune`: a search through Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dynat_ray import cli, run_options
from dynat_ray.attack_names import check_attack_names
from dynat_ray.errors import UserError
from dynat_ray.settings import build_config
from dynat_ray.storage.run_length import RunLength
from dynat_ray.value_types import Positive, PositiveInt, check_value


def main(argv: Sequence[str]) -> str:
    """Searches as the arguments say and returns the path of the report."""
    options, layers, overrides = run_options.parse_with_settings(_parser(), argv)
    check_value("--max-concurrent", options.max_concurrent, PositiveInt | None)
    check_value("--time-budget", options.time_budget, Positive | None)
    if find_spec("optuna") is None:
        raise UserError("a search needs Optuna: pip install 'dynat-ray[tune]'")
    from dynat_ray.searching.space import check_space, read_space
    from dynat_ray.searching.study import Search, SearchOptions

    space = read_space(options.space)
    default = build_config([*layers, space.fixed, overrides])
    check_attack_names(default.eval.attacks)
    check_space(space, default)
    # A quarter of the run is what tells a bad setting from a good one.
    first_rung = math.ceil(RunLength.of(default.train).total / 4)
    if options.no_early_stop:
        first_rung = 0
    elif options.first_rung is not None:
        first_rung = options.first_rung
    search = Search(
        space,
        default,
        SearchOptions(
            trials=options.trials,
            search=options.search,
            objectives=tuple(options.objectives.split(",")),
            seed=options.seed,
            finalists=options.finalists,
            first_rung=first_rung,
            reduction=options.reduction,
        ),
    )

    # Ray takes seconds to import: after the settings are known to be right.
    from dynat_ray.distributed.search import check, run_search
    from dynat_ray.report.search_page import search_summary
    from dynat_ray.storage.places import choose_place, open_place
    from dynat_ray.storage.run_folder import default_name

    name = options.name or default_name(options.recipe, f"search-{options.space.stem}")
    where = default.cluster.storage, options.out, name
    checked = {"max_concurrent": options.max_concurrent, "out_given": choose_place(*where).given}
    if options.check:
        print(check(search, **checked).describe())
        return str(options.space)
    with open_place("search", *where, resume=options.resume) as place:
        plan = check(search, **checked)
        run_search(plan, place.folder, resume=options.resume, time_budget=options.time_budget)
        print(f"\n{search_summary(place.folder)}\n")
    return place.written("report.html")


def _parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        prog="python -m dynat_ray.tune",
        description="Searches settings through Ray Tune. Trial 0 is always the default setting. "
        "Settings that all trials share can be given as --section.key VALUE "
        "(python -m dynat_ray.train --help lists them).",
    )
    add = parser.add_argument
    add("space", type=Path, metavar="SPACE.yaml", help="what to search; see tune_spaces/")
    add("--trials", type=int, required=True, help="how many, the default setting included")
    run_options.add_run_options(parser, "search", named_after="recipe, space")
    add("--max-concurrent", type=int, help="most trials side by side (default: as many as fit)")
    add("--time-budget", type=float, metavar="SECONDS", help="start no trial and stop all then")
    add("--search", choices=("tpe", "random", "grid"), default="tpe", help="default: tpe")
    add("--objectives", default="robust", help="robust (default), or clean,robust")
    add("--finalists", type=int, default=3, help="best trials that AutoAttack judges (default: 3)")
    add(
        "--first-rung",
        type=int,
        metavar="N",
        help="epochs (units) of the first early stop (default: a quarter)",
    )
    add("--reduction", type=float, default=2.0, help="one in so many goes on (default: 2)")
    add("--no-early-stop", action="store_true", help="train every trial to its end")
    add("--seed", type=int, default=0, help="of the proposals (default: 0)")
    add("--check", action="store_true", help="check everything, start no trial")
    return parser


if __name__ == "__main__":
    cli.run(main)
