"""Square Attack against pyautoattack's."""

from __future__ import annotations

import torch
from pyautoattack.square import SquareAttack

from dynat_ray.attacks.square import Square
from dynat_ray.attacks.stages import Setting
from tests.attacks.conftest import EPS, Victim


def test_images_are_the_librarys(robust: Victim) -> None:
    images, labels = robust.images[:24], robust.labels[:24]
    keep = robust.model(images).argmax(dim=1) == labels
    images, labels = images[keep], labels[keep]
    at = Setting(norm="Linf", eps=EPS, classes=10, seed=7)
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
