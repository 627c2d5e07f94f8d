"""The L1 ball within [0, 1] against AutoAttack's projection, and foolbox's."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.autopgd_base import L1_projection
from torch import Tensor, nn

from dynat_ray.perturb.l1_ball import L1Ball
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.threat import Threat

BALL = L1Ball()


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(40, 3, 6, 6, generator=generator)
    # Many pixels have no room on one side, as in real images.
    return ((images - 0.5) * 1.6 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("reach", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("eps", [0.5, 5.0, 60.0])
def test_the_projection_is_autoattacks(images: Tensor, reach: float, eps: float) -> None:
    generator = torch.Generator().manual_seed(4)
    moved = images + reach * torch.randn(images.shape, generator=generator)
    found = BALL.project(moved, images, torch.full((40,), eps))
    theirs = moved + L1_projection(images, moved - images, eps)
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)
    assert bool(((found - images).abs().flatten(1).sum(dim=1) <= eps * (1 + 1e-5)).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_no_image_of_the_intersection_is_nearer(images: Tensor) -> None:
    """The projection of a convex set: what leads back makes no acute angle with what stays in."""
    generator = torch.Generator().manual_seed(5)
    moved = images + torch.randn(images.shape, generator=generator)
    eps = torch.linspace(0.1, 20, 40)
    found = BALL.project(moved, images, eps)
    for seed in range(5):
        keys = torch.arange(40) + 100 * seed
        other = BALL.project(images + BALL.uniform_noise(images, eps, keys), images, eps)
        product = ((moved - found) * (other - found)).flatten(1).sum(dim=1)
        assert float(product.max()) <= 1e-3


def test_each_sample_has_its_own_radius(images: Tensor) -> None:
    moved = images + 0.5
    eps = torch.linspace(0, 30, 40)
    together = BALL.project(moved, images, eps)
    assert torch.equal(together[0], images[0])
    for n in (1, 17, 39):
        rows = slice(n, n + 1)
        alone = BALL.project(moved[rows], images[rows], eps[rows])
        torch.testing.assert_close(alone, together[rows])


def test_noise_fills_the_ball() -> None:
    """Its mean length is that of the uniform distribution, `eps n / (n + 1)`; signs are even."""
    images = torch.full((4000, 1, 2, 2), 0.5)
    noise = BALL.uniform_noise(images, torch.full((4000,), 0.4), torch.arange(4000)).flatten(1)
    lengths = noise.abs().sum(dim=1)
    assert float(lengths.max()) <= 0.4 + 1e-6
    assert float(lengths.mean()) == pytest.approx(0.4 * 4 / 5, rel=0.02)
    assert noise.mean(dim=0).abs().max() < 0.01


def test_a_step_moves_the_steepest_pixels_that_can_move(images: Tensor) -> None:
    generator = torch.Generator().manual_seed(6)
    gradient = torch.randn(images.shape, generator=generator)
    gradient[0] = torch.nan
    moved = BALL.step(images, gradient, torch.full((40,), 0.9)) - images
    assert not moved[0].any()
    lengths = moved.flatten(1).abs()
    assert lengths[1:].sum(dim=1).tolist() == pytest.approx([0.9] * 39, rel=1e-4)
    for n in range(1, 40):
        slope, pixels = gradient[n].flatten(), images[n].flatten()
        able = torch.where(slope > 0, pixels < 1, pixels > 0)
        places = (slope.abs() * able).topk(5).indices
        assert set(lengths[n].nonzero().flatten().tolist()) == set(places.tolist())
        assert bool((moved[n].flatten()[places] * slope[places] > 0).all())


def test_pgd_finds_the_best_image_for_a_linear_model() -> None:
    """The steepest pixels go to the end of their range, until the budget is spent."""
    weights = torch.tensor([4.0, -3.0, 2.0, 1.0])

    class Linear(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1) @ weights
            return torch.stack([torch.zeros_like(score), score], dim=1)

    images = torch.tensor([[0.6, 0.7, 0.5, 0.5]]).view(1, 1, 2, 2)
    attack = PGD(
        threat=Threat("L1", 1.2), steps=60, step_size=0.1, objective="cw", random_start="none"
    )
    found = attack(Linear(), images, torch.tensor([0])).images
    # 0.4 of the first, 0.7 of the second, and 0.1 are left for the third.
    expected = torch.tensor([1.0, 0.0, 0.6, 0.5]).view(1, 1, 2, 2)
    torch.testing.assert_close(found, expected, atol=0.06, rtol=0)
