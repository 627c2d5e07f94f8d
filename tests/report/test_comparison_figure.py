"""The comparison's figure: what is in it, and that its names can be read."""

from __future__ import annotations

import base64
from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynat_ray.report import comparison_figure
from dynat_ray.report.comparison_figure import clean_against_robust
from dynat_ray.report.comparison_rows import Row, Spread


def row(label: str, model: str, clean: float, robust: float) -> Row:
    accuracies = {"clean": Spread(clean, 0.3), "autoattack": Spread(robust, None)}
    return Row(label, model, 2, accuracies, *[Spread(1, None)] * 5)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn from here on."""
    figures: list[Figure] = []

    def draw(width: float, height: float, paint: object) -> str:
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)  # type: ignore[operator]
        figures.append(figure)
        return ""

    monkeypatch.setattr(comparison_figure, "draw", draw)
    return figures


def test_names_of_close_points_do_not_overlap(painted: list[Figure]) -> None:
    points = [(99.4, 85.0), (99.4, 85.0), (99.4, 84.5), (99.5, 85.5), (97.0, 80.0)]
    labels = ["trades", "dynat", "pgd_at", "mart", "fat"]
    clean_against_robust(
        [row(label, "last", *point) for label, point in zip(labels, points, strict=True)],
        "autoattack",
    )
    axes = painted[0].axes[0]
    renderer = FigureCanvasAgg(painted[0]).get_renderer()
    names = [text for text in axes.texts if text.get_text() in labels]
    assert sorted(text.get_text() for text in names) == sorted(labels)
    boxes = [text.get_window_extent(renderer) for text in names]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_what_is_not_robust_is_named_beside_the_others(painted: list[Figure]) -> None:
    rows = [
        row(label, model, *point)
        for model in ("best", "last")
        for label, point in {"trades": (80, 50), "dynat": (82, 49), "standard": (95, 0)}.items()
    ]
    clean_against_robust(rows, "autoattack")
    axes = painted[0].axes[0]
    assert axes.get_ylim()[0] > 40
    assert axes.get_title() == "below the figure (clean, robust): standard (95.0, 0.0)"


def test_the_same_figure_gives_the_same_file() -> None:
    rows = [row(label, "last", 80 + place, 50) for place, label in enumerate("abcdefgh")]
    first, second = (clean_against_robust(rows, "autoattack") for _ in range(2))
    assert first == second
    assert b"<svg" in base64.b64decode(first.partition(",")[2])
