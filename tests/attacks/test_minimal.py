"""Distances of the nearest adversarial images against models whose distances are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynat_ray.attacks.minimal import DeepFool, Fab
from dynat_ray.attacks.stages import Setting
from dynat_ray.config import Norm
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.probe_results import summarise_deepfool, summarise_fab
from dynat_ray.perturb.threat import Threat
from dynat_ray.report.evaluation_text import probe_lines
from tests.quick_attack import square_queries
from tests.victim import Victim

POSITIONS = np.arange(4)


class Linear(nn.Module):
    """Three classes that are a linear function of the image, so that every distance is exact."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 9, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


def _nearest(model: Linear, images: Tensor, norm: Norm) -> Tensor:
    logits = model(images).detach()
    weight = model.weight.detach()
    start = logits.argmax(dim=1)
    dual = 1 if norm == "Linf" else 2
    distances = []
    for row, label in enumerate(start.tolist()):
        others = [k for k in range(3) if k != label]
        distances.append(
            min(
                float(
                    (logits[row, label] - logits[row, k]) / (weight[label] - weight[k]).norm(p=dual)
                )
                for k in others
            )
        )
    return torch.tensor(distances)


@pytest.fixture
def linear() -> tuple[Linear, Tensor, Tensor]:
    model = Linear()
    images = 0.5 + 0.05 * torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    return model, images, model(images).argmax(dim=1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_finds_the_exact_distance_of_a_linear_model(
    linear: tuple[Linear, Tensor, Tensor], norm: Norm
) -> None:
    model, images, labels = linear
    at = Setting(threat=Threat(norm, 0), classes=3, seed=0)
    found = Fab().measure(model, images, labels, at, POSITIONS)
    assert found.distances is not None
    exact = _nearest(model, images, norm)
    assert torch.allclose(found.distances, exact, rtol=0.02)
    assert (found.predicted != labels).all()


def test_fab_counts_wrong_images_as_distance_0(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear
    wrong = labels.clone()
    wrong[0] = (labels[0] + 1) % 3
    at = Setting(threat=Threat("L2", 0), classes=3, seed=0)
    distances = Fab().measure(model, images, wrong, at, POSITIONS).distances
    assert distances is not None
    assert distances[0] == 0
    assert (distances[1:] > 0).all()


def test_rho_2_is_the_mean_relative_length(linear: tuple[Linear, Tensor, Tensor]) -> None:
    model, images, labels = linear
    # Away from the predicted class, whatever the label.
    at = Setting(threat=Threat("Linf", 0), classes=3, seed=0)
    found = DeepFool().measure(model, images, (labels + 1) % 3, at, POSITIONS)
    assert found.distances is not None
    exact = 1.02 * _nearest(model, images, "L2")
    assert torch.allclose(found.distances, exact, rtol=1e-3)
    outcome = Outcome(
        "deepfool", POSITIONS, found.predicted.numpy(), np.zeros(4), distances=exact.numpy()
    )
    summary = summarise_deepfool(outcome, images)
    expected = (exact / images.flatten(1).norm(dim=1)).mean()
    assert summary["rho_2"] == pytest.approx(float(expected), rel=1e-4)
    assert "rho_2" in probe_lines({"distances": {"deepfool": summary}})[0]


def test_distances_agree_with_accuracy_at_an_eps(robust_few: Victim, few_iterations: int) -> None:
    """FAB can't find a nearer image than a minimal one: those within eps are fooled at eps."""
    from dynat_ray.evaluation import evaluate_attacks

    model, images, labels = robust_few.model, robust_few.images[:16], robust_few.labels[:16]
    at = Setting(threat=Threat("Linf", 0), classes=4, seed=0)
    distances = Fab().measure(model, images, labels, at, np.arange(16)).distances
    assert distances is not None
    eps = 0.25
    with square_queries(100):
        found = evaluate_attacks(model, images, labels, ["autoattack"], Threat("Linf", eps))
    within = (distances <= eps).numpy()
    assert within.any()
    assert not found["autoattack"].correct[within].any()


def test_summary_of_unreached_images() -> None:
    distances = np.array([0.0, 0.1, np.inf, np.inf])
    outcome = Outcome("fab", POSITIONS, np.zeros(4), np.zeros(4), distances=distances)
    summary = summarise_fab(outcome, "Linf")
    assert (summary["right_without_attack"], summary["found"]) == (3, 1)
    assert summary["median"] is None
    assert "not reached" in probe_lines({"distances": {"fab": summary}})[0]
