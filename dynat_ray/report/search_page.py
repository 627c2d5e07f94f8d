"""`report.html` of a search, and its summary for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynat_ray.report.difference_rows import difference_sentences
from dynat_ray.report.difference_section import difference_section
from dynat_ray.report.influence import influences
from dynat_ray.report.page import write_page
from dynat_ray.report.search_differences import judged_differences, winner_differences
from dynat_ray.report.search_figures import (
    influence_plot,
    parallel_plot,
    pareto_plot,
)
from dynat_ray.report.text import interval_text, value_text
from dynat_ray.searching.ranking import winner
from dynat_ray.searching.space import describe_distribution
from dynat_ray.searching.study import Search, read_search
from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial, read_trials, trial_folder
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.json_file import read_json


def write_search_report(folder: Path) -> Path:
    """Writes `report.html` into a search's folder.

    Args:
        folder: The search's; the search may be unfinished.

    Returns:
        The file.
    """
    return write_page(folder / "report.html", "search.html", _content(folder))


def search_summary(folder: Path) -> str:
    """Returns what came out, in a few lines: the winner, and both on the test split."""
    best = _winner(read_trials(folder))
    if best is None:
        return "no trial has finished"
    lines = [f"winner: {describe_trial(best)}"]
    for row in _comparison(folder, best):
        cells = (
            f"{name} {entry['accuracy']:.1f} % ({interval_text(entry)})"
            for name, entry in row["entries"].items()
        )
        lines.append(f"{row['name']} on the test split: {', '.join(cells)}")
    differences = winner_differences(folder, best, _test_attacks(_comparison(folder, best)))
    lines += difference_sentences(differences)
    return "\n".join(
        [*lines, f"settings for train --config: {shown_text(str(folder / 'best.yaml'))}"]
    )


def describe_trial(trial: Trial) -> str:
    """Returns a trial's number and settings on one line."""
    if trial.number == DEFAULT_TRIAL:
        return "trial 0, the default setting"
    settings = (f"{key} {value_text(value)}" for key, value in trial.settings.items())
    return shown_text(f"trial {trial.number}: {', '.join(settings)}")


def _winner(trials: list[Trial]) -> Trial | None:
    attack = _judging_attack(trials)
    return winner(trials, attack) if attack else None


def _judging_attack(trials: list[Trial]) -> str:
    """Returns the attack that chose the winner: the last one of the final measurement."""
    return next((list(trial.validation)[-1] for trial in trials if trial.validation), "")


def _content(folder: Path) -> dict[str, Any]:
    search, trials = read_search(folder), read_trials(folder)
    searched, epochs = search.space.searched, search.default.train.epochs
    measured = any(trial.best for trial in trials)
    best, attack = _winner(trials), _judging_attack(trials)
    comparison = _comparison(folder, best) if best else []
    test_attacks = _test_attacks(comparison)
    return {
        "name": folder.resolve().name,
        "facts": _facts(search, trials),
        "space": {key: describe_distribution(each) for key, each in searched.items()},
        "default": {k: value_text(v) for k, v in search.space.default(search.default).items()},
        "best": best,
        "best_words": describe_trial(best) if best else "",
        "best_values": {k: value_text(v) for k, v in best.settings.items()} if best else {},
        "attack": attack,
        "comparison": comparison,
        "test_attacks": test_attacks,
        "differences": difference_section(winner_differences(folder, best, test_attacks)),
        "pareto": pareto_plot(trials, best) if measured else None,
        "parallel": parallel_plot(trials, searched, best) if measured else None,
        "keys": list(searched),
        "trials": [_row(folder, trial, best, epochs) for trial in _ranked(trials)],
        **_judged(folder, trials, attack),
        **_influence(search, trials),
    }


def _facts(search: Search, trials: list[Trial]) -> dict[str, str]:
    options, default = search.options, search.default
    states = ", ".join(f"{count} {state}" for state, count in _states(trials).items())
    stops = (
        f"ASHA on robust accuracy, first after {options.first_rung} of {default.train.epochs} "
        f"epochs, one in {options.reduction:g} goes on"
    )
    return {
        "trials": f"{len(trials)} of {options.trials} ({states})",
        "proposals": f"{options.search}, for {' and '.join(options.objectives)} accuracy",
        "early stops": stops if options.first_rung else "none",
        "method": default.method.name,
        "model": default.model.name,
        "data": default.data.path,
    }


def _judged(folder: Path, trials: list[Trial], attack: str) -> dict[str, Any]:
    """Returns the trials that AutoAttack judged on the validation split, the most robust first."""
    judged = sorted(
        (trial for trial in trials if trial.validation),
        key=lambda trial: -trial.validation[attack]["accuracy"],
    )
    gained = judged_differences(folder, judged, attack)
    rows = [
        {
            "number": trial.number,
            "is_default": trial.number == DEFAULT_TRIAL,
            "gained": gained.get(trial.number, ""),
            "entries": [
                entry | {"interval": interval_text(entry)} for entry in trial.validation.values()
            ],
        }
        for trial in judged
    ]
    return {"judged": rows, "judging_attacks": list(judged[0].validation) if judged else []}


def _influence(search: Search, trials: list[Trial]) -> dict[str, Any]:
    """Returns what each setting does, over trials that are compared after equally many epochs."""
    searched = search.space.searched
    epochs = search.options.first_rung or search.default.train.epochs
    effects = influences(trials, searched, epochs)
    keys = [effect.key for effect in effects]
    return {
        "effects": {effect.key: effect.words() for effect in effects},
        "influence": influence_plot(trials, searched, keys, epochs) if effects else None,
        "compared_epochs": epochs,
        "compared_trials": sum(trial.after(epochs) is not None for trial in trials),
    }


def _test_attacks(comparison: list[dict[str, Any]]) -> list[str]:
    return list(comparison[0]["entries"]) if comparison else []


def _states(trials: list[Trial]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for trial in trials:
        # A search that is over has nothing that runs.
        state = "unfinished" if trial.state == "running" else trial.state
        counts[state] = counts.get(state, 0) + 1
    return counts


def _ranked(trials: list[Trial]) -> list[Trial]:
    def rank(trial: Trial) -> tuple[bool, float]:
        accuracy = trial.best["validation_robust_accuracy"] if trial.best else -1.0
        return trial.state != "finished", -accuracy

    return sorted(trials, key=rank)


def _row(folder: Path, trial: Trial, best: Trial | None, epochs: int) -> dict[str, Any]:
    report = trial_folder(folder, trial.number) / "report.html"
    line = trial.best
    return {
        "number": trial.number,
        "link": str(report.relative_to(folder)) if report.exists() else "",
        "is_default": trial.number == DEFAULT_TRIAL,
        "is_best": best is not None and trial.number == best.number,
        "values": [value_text(value) for value in trial.settings.values()],
        "epochs": f"{trial.epochs}/{epochs}",
        "clean": f"{line['validation_clean_accuracy']:.1f}" if line else "",
        "robust": f"{line['validation_robust_accuracy']:.1f}" if line else "",
        "seconds": f"{trial.seconds:,.0f}",
        "state": "unfinished" if trial.state == "running" else trial.state,
        "error": trial.error,
    }


def _comparison(folder: Path, best: Trial) -> list[dict[str, Any]]:
    """Returns the test accuracies of the default setting and, where it is another, the winner."""
    rows = []
    for number in dict.fromkeys([DEFAULT_TRIAL, best.number]):
        results = read_json(trial_folder(folder, number) / "results.json")
        if results:
            entries: Mapping[str, Any] = results["best"]
            name = "default setting" if number == DEFAULT_TRIAL else f"trial {number}, the winner"
            rows.append(
                {
                    "name": name,
                    "entries": {
                        attack: {**entry, "interval_words": interval_text(entry)}
                        for attack, entry in entries.items()
                    },
                }
            )
    return rows
