"""Confidence gaps with a sign, and which epochs' distributions are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.report.reading import read_run
from dynat_ray.report.sample_figures import budgets_and_steps, confidence_gaps
from tests.report.conftest import ATTACKED, MakeRun


def test_gaps_are_positive_where_the_model_is_right() -> None:
    gaps = confidence_gaps(
        {
            "label": np.array([0, 1, 2, 3]),
            "predicted": np.array([0, 1, 2, 0]),
            "confidence_gap": np.array([0.9, 0.5, 0.2, 0.6], dtype=np.float32),
            "adversarial_gap": np.array([-0.8, 0.3, -0.1, 0.7], dtype=np.float32),
        }
    )
    assert gaps is not None
    np.testing.assert_allclose(gaps.clean, [0.9, 0.5, 0.2, -0.6], rtol=1e-6)
    np.testing.assert_allclose(gaps.adversarial, [0.8, -0.3, 0.1, -0.7], rtol=1e-6)
    assert gaps.shares() == pytest.approx(
        {
            "right, and right under attack": 50,
            "right, but the attack wins": 25,
            "wrong without any attack": 25,
        }
    )


def test_a_method_without_predictions_has_no_gaps() -> None:
    assert confidence_gaps({"label": np.array([0]), "adversarial_gap": np.array([0.1])}) is None


def test_a_method_without_attack_has_no_budgets(make_run: MakeRun) -> None:
    assert budgets_and_steps(read_run(make_run(name="attacked"))) is not None
    assert budgets_and_steps(read_run(make_run(name="clean", without=ATTACKED))) is None
    assert budgets_and_steps(read_run(make_run(name="new", epochs=0))) is None


def test_a_long_run_is_drawn_too(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynat_ray.report.sample_figures._MOST_EPOCHS", 4)
    run = read_run(make_run(epochs=9))
    read = []

    def remember(file, columns):  # type: ignore[no-untyped-def]
        read.append(int(file.stem[-4:]))
        return {"eps": np.array([0.1]), "attack_steps": np.array([10])}

    monkeypatch.setattr("dynat_ray.report.sample_figures.read_samples", remember)
    assert budgets_and_steps(run) is not None
    assert len(read) == 4
    assert (read[0], read[-1]) == (0, 8)
