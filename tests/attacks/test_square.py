"""Square Attack against pyautoattack's."""

from __future__ import annotations

import math

import pytest
import torch
from pyautoattack.square import SquareAttack

from dynat_ray.attacks.square import Square, _side, square_fits
from dynat_ray.attacks.stages import Setting
from dynat_ray.errors import UserError
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim


def test_images_are_the_librarys(robust: Victim) -> None:
    images, labels = robust.images[:24], robust.labels[:24]
    keep = robust.model(images).argmax(dim=1) == labels
    images, labels = images[keep], labels[keep]
    at = Setting(threat=Threat("Linf", EPS), classes=10, seed=7)
    before = torch.get_rng_state()
    ours = Square(queries=300).perturb(robust.model, images, labels, at)
    assert torch.equal(torch.get_rng_state(), before)
    library = SquareAttack(
        robust.model, n_queries=300, eps=EPS, seed=7, resc_schedule=False, device=images.device
    )
    with torch.random.fork_rng(), torch.no_grad():
        theirs = library.perturb(images, labels)
    fallen = robust.model(theirs).argmax(dim=1) != labels
    assert 0 < fallen.sum() < len(labels)
    # The library gives samples that stand back as they were, ours the best attempt.
    torch.testing.assert_close(ours[fallen], theirs[fallen], rtol=0, atol=1e-6)
    assert (robust.model(ours).argmax(dim=1) != labels).tolist() == fallen.tolist()
    assert ((ours - images).abs() <= EPS * (1 + 1e-5)).all()


def test_squares_shrink_as_the_librarys() -> None:
    """Over the queries of a whole attack and further, which the images above do not take."""
    library = SquareAttack(torch.nn.Flatten(), eps=EPS, p_init=0.8, resc_schedule=False)
    for query in range(9000):
        side = round(math.sqrt(library.p_selection(query) * 60 * 80))
        assert _side(query, 60, 80) == min(side, 60)
    assert _side(8999, 8, 8) == 1


@pytest.mark.parametrize(
    ("height", "width", "fits"),
    [(32, 32, True), (28, 28, True), (8, 8, True), (12, 12, False), (24, 24, False), (4, 9, False)],
)
def test_which_images_can_be_attacked_under_l2(height: int, width: int, fits: bool) -> None:
    images = torch.rand(2, 1, height, width)
    assert square_fits(images, "L2") == fits
    assert square_fits(images, "Linf")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(height * width, 3))
    labels = model(images).argmax(dim=1)
    if fits:
        at = Setting(threat=Threat("L2", 1e-3), classes=3, seed=0)
        changed = Square(queries=60).perturb(model, images, labels, at)
        assert ((changed - images).flatten(1).norm(dim=1) <= 1.001e-3).all()
    else:
        # Nothing is computed first.
        with pytest.raises(UserError, match=f"{height} x {width} pixels"):
            evaluate_attacks(torch.nn.Flatten(), images, labels, ["autoattack"], Threat("L2", 0.5))
