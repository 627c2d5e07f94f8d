from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.errors import UserError
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.perturb.threat import Threat


def _evaluate(model: nn.Module, images: Tensor, labels: Tensor, *attacks: str) -> None:
    evaluate_attacks(model, images, labels, attacks or ["clean"], Threat("Linf", 0.1))


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_no_samples(model: nn.Module) -> None:
    with pytest.raises(UserError, match="0 samples"):
        _evaluate(model, torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0, float("nan")])
def test_images_outside_the_unit_interval(model: nn.Module, bad: float) -> None:
    images = torch.rand(4, 1, 8, 8)
    images[2, 0, 3, 3] = bad
    with pytest.raises(UserError, match=r"must lie in \[0, 1\]"):
        _evaluate(model, images, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 9)])
def test_channels_or_size_that_the_model_does_not_take(
    model: nn.Module, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(UserError, match="does not take images of"):
        _evaluate(model, torch.rand(2, *shape), torch.zeros(2, dtype=torch.long))


def test_labels_beyond_the_models_classes(model: nn.Module) -> None:
    with pytest.raises(UserError, match="the model has 3 classes"):
        _evaluate(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 3]))


def test_labels_of_another_length(model: nn.Module) -> None:
    with pytest.raises(UserError, match="2 images"):
        _evaluate(model, torch.rand(2, 1, 8, 8), torch.zeros(3, dtype=torch.long))


def test_logits_that_are_not_finite(model: nn.Module) -> None:
    class Undefined(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(images)
            return logits.masked_fill((images[:, 0, 0, 0] > 0.5)[:, None], float("nan"))

    images = torch.full((5, 1, 8, 8), 0.2)
    images[[1, 3]] = 0.9
    with pytest.raises(UserError, match="not finite for 2 of 5 clean images"):
        _evaluate(Undefined(), images, torch.zeros(5, dtype=torch.long))


def test_one_output() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(UserError, match="at least two classes"):
        _evaluate(model, torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))


def test_logits_of_a_wrong_shape() -> None:
    model = nn.Conv2d(1, 3, 3)
    with pytest.raises(UserError, match="must return logits of shape"):
        _evaluate(model, torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))


def test_a_sample_whose_logits_an_attack_makes_undefined_is_not_right() -> None:
    class Overflowing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            mean = images.flatten(1).mean(dim=1)
            logits = torch.stack([mean + 1, mean], dim=1)
            return torch.where((mean > 0.55)[:, None], float("nan"), logits)

    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.long)

    class Brighten(nn.Module):
        """A gradient that leads upwards: the label's logit falls with the mean."""

        def forward(self, inputs: Tensor) -> Tensor:
            logits = Overflowing()(inputs)
            return logits + torch.stack(
                [-inputs.flatten(1).mean(dim=1), inputs.flatten(1).mean(dim=1)], dim=1
            )

    found = evaluate_attacks(Brighten(), images, labels, ["clean", "fgsm"], Threat("Linf", 0.1))
    assert found["clean"].accuracy == 100
    assert found["fgsm"].accuracy == 0
    assert (found["fgsm"].predicted == -1).all()


def test_rounding_above_one_is_taken() -> None:
    images = torch.full((2, 1, 8, 8), 1 + 5e-7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    labels = model(images).argmax(dim=1)
    evaluate_attacks(model, images, labels, ["apgd-ce"], Threat("Linf", 1e-9))
