"""What files and terminals say of a difference."""

from __future__ import annotations

import pytest

from dynat_ray.evaluation.differences import Difference
from dynat_ray.report.difference_rows import (
    DifferenceRow,
    difference_sentences,
    differences_csv,
    differences_table,
)


def row(
    measure: str, low: float, high: float, a: str = "dynat", b: str = "trades"
) -> DifferenceRow:
    return DifferenceRow(a, b, measure, Difference((low + high) / 2, low, high, 3, 1000))


@pytest.mark.parametrize(
    ("clean", "robust", "words"),
    [
        ((1, 2), (0.1, 3), "ahead in both"),
        ((-2, -1), (-3, -0.1), "behind in both"),
        ((-1, 2), (-1, 2), "no difference in either"),
        ((1, 2), (-1, 2), "ahead in clean, no difference in AutoAttack"),
        ((-2, 0), (1, 2), "no difference in clean, ahead in AutoAttack"),
    ],
)
def test_a_sentence_for_a_pair(
    clean: tuple[float, float], robust: tuple[float, float], words: str
) -> None:
    rows = [row("clean", *clean), row("cw", 5, 6), row("autoattack", *robust), row("fgsm", 5, 6)]
    assert difference_sentences(rows) == [f"dynat against trades: {words}"]


def test_a_sampled_attack_is_called_so() -> None:
    rows = [row("clean", 1, 2), row("autoattack-sampled", -1, 1)]
    assert difference_sentences(rows) == [
        "dynat against trades: ahead in clean, no difference in autoattack-sampled"
    ]
    assert difference_sentences([row("pgd-20", 1, 2)]) == ["dynat against trades: ahead in pgd-20"]


def test_of_a_curve_the_largest_eps_counts() -> None:
    rows = [row("clean", 1, 2), row("autoattack, L2 0.5", 1, 2), row("autoattack, L2 1", -2, -1)]
    assert difference_sentences(rows)[0].endswith("ahead in clean, behind in autoattack, L2 1")


def test_names_of_other_peoples_making_do_nothing() -> None:
    rows = [row("clean", 1, 2, a="=cmd|<b>", b="line\nbreak\x1b[31m")]
    assert "\x1b" not in differences_csv(rows)
    assert len(differences_csv(rows).splitlines()) == 2
    assert "<b>" not in differences_table(rows, markdown=True)
    assert "\x1b" not in difference_sentences(rows)[0]
