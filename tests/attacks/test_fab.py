"""FAB against pyautoattack's."""

from __future__ import annotations

import pytest
import torch
from pyautoattack.fab_projections import projection_l1, projection_l2, projection_linf
from pyautoattack.fab_pt import FABAttack_PT

from dynat_ray.attacks.fab import TargetedFab, nearest_towards, step_to_plane
from dynat_ray.attacks.stages import Setting
from dynat_ray.config import Norm
from dynat_ray.perturb.threat import Threat, change_sizes
from tests.victim import EPS, Victim


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("distance", [0.01, 1.0, 1e4])
def test_steps_to_a_plane_are_the_librarys(norm: Norm, distance: float) -> None:
    """Near planes, far ones at which the pixel range cuts steps off, and ones out of reach."""
    random = torch.Generator().manual_seed(0)
    points = torch.rand(12, 1, 5, 5, generator=random)
    points[:3] = points[:3].round()
    normal = torch.randn(points.shape, generator=random)
    normal[3:6, 0, 0] = 0.0
    value = distance * torch.randn(12, generator=random)
    found = step_to_plane(points, normal, value, norm).flatten(1)
    project = {"Linf": projection_linf, "L2": projection_l2, "L1": projection_l1}[norm]
    flat = normal.flatten(1)
    expected = project(points.flatten(1), flat, (flat * points.flatten(1)).sum(dim=1) - value)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert found.abs().max() > 0


@pytest.mark.parametrize(("norm", "eps"), [("Linf", EPS), ("L2", 0.8), ("L1", 3.0)])
def test_distances_are_the_librarys(
    robust: Victim, few_iterations: int, norm: Norm, eps: float
) -> None:
    images, labels = robust.images[:24], robust.labels[:24]
    keep = robust.model(images).argmax(dim=1) == labels
    images, labels = images[keep], labels[keep]
    library = FABAttack_PT(robust.model, norm=norm, n_iter=few_iterations)
    for rank in (0, 3):
        found, distances = nearest_towards(robust.model, images, labels, rank, norm=norm)
        library.target_class = rank + 2
        theirs = library.attack_single_run(images, labels, is_targeted=True) - images
        expected = change_sizes(theirs, norm)
        expected[expected == 0] = torch.inf
        # Rounding may send single paths elsewhere.
        close = torch.isclose(distances, expected, rtol=0.02) | (distances == expected)
        assert close.float().mean() >= 0.9
        size = change_sizes(found - images, norm)
        reached = distances.isfinite()
        assert reached.float().mean() > 0.8
        torch.testing.assert_close(size[reached], distances[reached])
        assert (robust.model(found[reached]).argmax(dim=1) != labels[reached]).all()


def test_within_eps_the_same_samples_fall(robust: Victim, few_iterations: int) -> None:
    images, labels = robust.images[:40], robust.labels[:40]
    keep = robust.model(images).argmax(dim=1) == labels
    images, labels = images[keep], labels[keep]
    at = Setting(threat=Threat("Linf", EPS), classes=10, seed=0)
    ours = TargetedFab().perturb(robust.model, images, labels, at)
    assert ((ours - images).abs() <= EPS * (1 + 1e-5)).all()
    library = FABAttack_PT(robust.model, eps=EPS, targeted=True, n_iter=few_iterations)
    theirs = library.perturb(images, labels)
    fallen = robust.model(ours).argmax(dim=1) != labels
    assert fallen.tolist() == (robust.model(theirs).argmax(dim=1) != labels).tolist()
    assert 0 < fallen.sum() < len(labels)
