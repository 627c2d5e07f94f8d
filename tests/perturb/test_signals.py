"""Signals of fragility, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dynat_ray.perturb.signals import (
    adversarial_gap,
    confidence_gap,
    signed_gap,
    skewness,
    skewness_limit,
)


def test_gaps_by_hand() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
    torch.testing.assert_close(confidence_gap(probs), torch.tensor([0.5, 0.1]))
    torch.testing.assert_close(signed_gap(probs, torch.tensor([0, 2])), torch.tensor([0.5, -0.1]))
    torch.testing.assert_close(
        adversarial_gap(probs.log(), torch.tensor([0, 2])), torch.tensor([-0.5, 0.1])
    )


def test_skewness_by_hand() -> None:
    one_hot = torch.eye(10)[:1]
    assert skewness_limit(10) == pytest.approx(8 / 3)
    torch.testing.assert_close(skewness(one_hot), torch.ones(1))
    tie = torch.tensor([[0.5, 0.5] + [0.0] * 8])
    assert float(skewness(tie)) == pytest.approx(1.5 / (8 / 3))
    rows = np.random.default_rng(0).dirichlet(np.ones(7), size=5)
    for row in rows:
        deviation = row - row.mean()
        slow = (deviation**3).mean() / (deviation**2).mean() ** 1.5
        fast = float(skewness(torch.tensor(row)[None]))
        assert fast == pytest.approx(slow / (5 / math.sqrt(6)), rel=1e-5)


def test_skewness_near_uniform_predictions_is_no_noise() -> None:
    nearly = torch.full((1, 10), 0.1)
    nearly[0, 0] += 1e-6
    assert abs(float(skewness(nearly))) < 1e-3
    assert float(skewness(torch.full((1, 10), 0.1))) == 0


def test_skewness_is_constant_for_two_classes() -> None:
    assert skewness(torch.tensor([[0.9, 0.1], [0.5, 0.5]])).tolist() == [0, 0]
