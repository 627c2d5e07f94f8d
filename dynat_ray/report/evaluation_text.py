"""What an evaluation found, as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynat_ray.evaluation.outcomes import AttackOutcomes
from dynat_ray.radius import format_radius
from dynat_ray.report.text import accuracy_text, align_columns
from dynat_ray.shown_text import shown_text

_LONGEST_KIND = 30


def accuracy_table(outcomes: AttackOutcomes) -> str:
    """Returns a row for each attack, a block for each threat, and the attacks' notes below.

    Below a block stands whom the last stages of sampled attacks saw.
    """
    lines = []
    for threat, found in outcomes.items():
        rows = [["attack", "accuracy %", "95 % interval", "samples"]]
        for name, outcome in found.items():
            low, high = outcome.interval
            interval = f"{low:.1f} to {high:.1f}"
            rows.append([name, f"{outcome.accuracy:.2f}", interval, f"{outcome.samples:,}"])
        lines.append(f"eps {format_radius(threat.eps, threat.norm)}")
        lines += [f"  {line}" for line in align_columns(rows).splitlines()]
        lines += [
            f"  {line}"
            for line in second_stage_lines({name: o.entry() for name, o in found.items()})
        ]
    notes = {o.note for found in outcomes.values() for o in found.values() if o.note}
    return "\n".join([*lines, *(f"  note: {shown_text(note)}" for note in sorted(notes))])


def second_stage_lines(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns, for each sampled attack, a plain line on whom its last stages saw and what fell.

    Args:
        entries: Of results files, by attack.
    """
    lines = []
    for name, entry in entries.items():
        if "two_stage" not in entry:
            continue
        found = entry["two_stage"]
        survivors, tried, fell = (
            sum(stratum[key] for stratum in found["strata"])
            for key in ("survivors", "tried", "fell")
        )
        *_, stage = entry["after"]
        if tried == survivors:
            words = f"all {survivors:,} survivors were tried, {fell:,} fell"
        else:
            strata = zip(("with the smallest margins", "others"), found["strata"], strict=False)
            words = f"{tried:,} of {survivors:,} survivors were tried: " + ", ".join(
                f"{s['tried']:,} of {s['survivors']:,} {which}, {s['fell']:,} fell"
                for which, s in strata
            )
        lines.append(f"{name}: at most {found['upper_bound']:.2f} % after {stage}; {words}")
    return lines


def probe_lines(content: Mapping[str, Any]) -> list[str]:
    """Returns what probes found, a plain line each, from an evaluation's JSON content."""
    lines = []
    distances = content.get("distances", {})
    if "deepfool" in distances:
        found = distances["deepfool"]
        lines.append(
            f"DeepFool: rho_2 {found['rho_2']:.4f}, median L2 distance {found['median']:.4f} "
            f"({found['samples']} images, {found['steps']} steps)"
        )
    if "fab" in distances:
        found = distances["fab"]
        median = found.get("median")
        distance = f"{median:.4f}" if median is not None else "not reached"
        lines.append(
            f"FAB: median {found['norm']} distance {distance} over the "
            f"{found['right_without_attack']} of {found['samples']} images right unattacked"
        )
    if "corruptions" in content:
        found = content["corruptions"]
        lines.append(
            f"common corruptions: {found['mean']:.2f} % right on average over "
            f"{len(found['accuracy'])} kinds ({found['samples']} images)"
        )
        lines += [f"  {line}" for line in _corruptions_table(found["accuracy"]).splitlines()]
    return lines


def _corruptions_table(accuracy: Mapping[str, Mapping[str, float]]) -> str:
    severities = sorted({each for found in accuracy.values() for each in found if each != "mean"})
    rows = [["severity", *severities, "mean"]]
    for kind, found in accuracy.items():
        cells = [f"{found[each]:.1f}" if each in found else "-" for each in [*severities, "mean"]]
        rows.append([shown_text(kind, _LONGEST_KIND), *cells])
    return align_columns(rows)


def norms_table(content: Mapping[str, Any]) -> str:
    """Returns what each norm leaves right and what is right under all, a row for each attack.

    Args:
        content: Of the JSON file of `evaluate --norms`.
    """
    norms = content["norms"]
    names = [f"{n['norm']} {format_radius(n['eps'], n['norm'])}" for n in norms]
    if content["union_only"]:
        ((_, entry),) = content["union"].items()
        words = f"right under all of {', '.join(names)} and all attacks: {accuracy_text(entry)} %"
        return f"{words} ({entry['samples']:,} images)"
    rows = [["attack", *names, "all norms", "samples"]]
    for attack, entry in content["union"].items():
        cells = [accuracy_text(found["results"].get(attack)) for found in norms]
        rows.append([attack, *cells, accuracy_text(entry), f"{entry['samples']:,}"])
    return f"test images still right, in percent (95 % interval)\n{align_columns(rows)}"
