"""Deep Defense's eps_ref on models whose radii are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.errors import UserError
from dynat_ray.evaluation.reference_radius import reference_radius


class _Threshold(nn.Module):
    """Class 1 where the mean pixel is above a half: FGSM moves it by eps, a pixel each."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], dim=1)


def _images(distances: list[float]) -> tuple[Tensor, Tensor]:
    """Images that stay right up to these radii, some of either class."""
    signs = torch.tensor([1.0 if number % 2 else -1.0 for number in range(len(distances))])
    levels = 0.5 + signs * torch.tensor(distances)
    return levels.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), (signs > 0).long()


@pytest.mark.parametrize(("norm", "scale"), [("Linf", 1.0), ("L2", 2.0)])
def test_half_of_the_images_fall_there(norm: str, scale: float) -> None:
    # Four pixels: the same change of their mean is twice as long in L2.
    images, labels = _images([0.05, 0.1, 0.2, 0.3])
    found = reference_radius(_Threshold(), images, labels, norm=norm)  # type: ignore[arg-type]
    # Anywhere between the second and the third image's radius two of four are right.
    assert found == pytest.approx(0.2 * scale, abs=1e-3)


def test_a_model_that_is_mostly_wrong_has_none() -> None:
    images, labels = _images([0.1, 0.1, 0.1])
    with pytest.raises(UserError, match="wrong without an attack"):
        reference_radius(_Threshold(), images, 1 - labels, norm="Linf")


def test_a_model_without_gradients_has_none() -> None:
    class Rounded(_Threshold):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.detach().round() + 0 * images)

    images, labels = _images([0.2, 0.2])
    with pytest.raises(UserError, match="more than half of the images right at eps 1"):
        reference_radius(Rounded(), images, labels, norm="Linf")
