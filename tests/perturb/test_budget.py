"""DynAT's budgets."""

from __future__ import annotations

import math

import pytest
import torch

from dynat_ray.perturb.budget import BudgetRule


def test_first_batch_by_hand() -> None:
    rule = BudgetRule(gap_coef=1.0, skew_coef=0.5, min_ratio=0.5, max_ratio=1.5)
    gap, skewness = torch.tensor([0.2, 0.6, 0.9]), torch.tensor([0.4, 0.8, 0.1])
    ratios = rule.ratios(gap, skewness, torch.tensor([True, True, False]))
    raw = [math.exp(-0.2 - 0.5 * 0.2), math.exp(0.2 + 0.5 * 0.2)]
    mean = sum(raw) / 2
    torch.testing.assert_close(ratios, torch.tensor([raw[0] / mean, raw[1] / mean, 1.0]))


def test_robust_samples_get_more_and_the_mean_stays_eps() -> None:
    torch.manual_seed(0)
    rule = BudgetRule(gap_coef=2.0, skew_coef=1.0, min_ratio=0.5, max_ratio=1.5)
    means = []
    for _ in range(60):
        gap = torch.rand(200)
        correct = torch.rand(200) < 0.8
        ratios = rule.ratios(gap, gap**2, correct)
        order = gap[correct].argsort()
        assert bool((ratios[correct][order].diff() >= -1e-6).all())
        assert bool((ratios[~correct] == 1).all())
        means.append(float(ratios[correct].mean()))
    assert abs(sum(means[30:]) / 30 - 1) < 0.02


def test_a_batch_without_a_correct_sample_changes_nothing() -> None:
    rule = BudgetRule(gap_coef=1.0, skew_coef=0.0, min_ratio=0.5, max_ratio=1.5)
    rule.ratios(torch.rand(8), torch.rand(8), torch.ones(8, dtype=torch.bool))
    before = rule.state_dict()
    ratios = rule.ratios(torch.rand(8), torch.rand(8), torch.zeros(8, dtype=torch.bool))
    assert ratios.tolist() == [1] * 8
    assert rule.state_dict() == before


def test_the_means_begin_with_the_first_correct_samples() -> None:
    late, fresh = (BudgetRule(1.0, 0.3, 0.5, 1.5) for _ in range(2))
    late.ratios(torch.rand(8), torch.rand(8), torch.zeros(8, dtype=torch.bool))
    gap, skewness, correct = torch.rand(8), torch.rand(8), torch.arange(8) < 3
    expected = fresh.ratios(gap, skewness, correct)
    assert torch.equal(late.ratios(gap, skewness, correct), expected)
    assert float(expected[correct].mean()) == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("signal", ["gap", "skewness"])
def test_a_sample_whose_signal_is_not_finite_counts_as_wrong(bad: float, signal: str) -> None:
    rule, without = (BudgetRule(1.0, 0.3, 0.5, 1.5) for _ in range(2))
    gap, skewness = torch.rand(8), torch.rand(8)
    correct = torch.ones(8, dtype=torch.bool)
    wanted = without.ratios(gap, skewness, torch.arange(8) > 0)
    values = gap if signal == "gap" else skewness
    values[0] = bad
    found = rule.ratios(gap, skewness, correct)
    torch.testing.assert_close(found, wanted)
    assert found[0] == 1
    assert rule.state_dict() == pytest.approx(without.state_dict())


def test_a_batch_without_a_finite_signal_changes_nothing() -> None:
    rule = BudgetRule(1.0, 0.3, 0.5, 1.5)
    correct = torch.ones(8, dtype=torch.bool)
    rule.ratios(torch.rand(8), torch.rand(8), correct)
    before = rule.state_dict()
    nothing = torch.full((8,), math.nan)
    assert rule.ratios(nothing, nothing, correct).tolist() == [1] * 8
    assert rule.state_dict() == before


def test_extreme_coefficients_give_finite_budgets() -> None:
    rule = BudgetRule(gap_coef=-1e6, skew_coef=0.0, min_ratio=0.0, max_ratio=1.5)
    correct = torch.ones(2, dtype=torch.bool)
    rule.ratios(torch.zeros(2), torch.zeros(2), correct)
    for _ in range(400):  # until the mean of the factors is 0 in float32
        ratios = rule.ratios(torch.ones(2), torch.zeros(2), correct)
        rule._gap = torch.zeros(())
        assert ratios.isfinite().all()


def test_state_goes_on() -> None:
    torch.manual_seed(1)
    rule, copy = (BudgetRule(1.0, 0.3, 0.5, 1.5) for _ in range(2))
    correct = torch.ones(16, dtype=torch.bool)
    rule.ratios(torch.rand(16), torch.rand(16), correct)
    copy.load_state_dict(rule.state_dict())
    gap, skewness = torch.rand(16), torch.rand(16)
    torch.testing.assert_close(
        rule.ratios(gap, skewness, correct), copy.ratios(gap, skewness, correct)
    )
