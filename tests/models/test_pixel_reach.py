"""Networks that pass pixels over are refused when they are built, with sizes that fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from dynat_ray.errors import UserError
from dynat_ray.models import build_model
from dynat_ray.models.pixel_reach import reached_size, unreached_pixels


def build(name: str, side: int, **kwargs: Any) -> nn.Module:
    return build_model(
        name,
        num_classes=3,
        channels=1,
        size=(side, side),
        mean=[0.5],
        std=[0.2],
        kwargs=kwargs,
    )


PASSING_OVER: list[tuple[str, int, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", 28, {"depth": 1}),
    ("vit_tiny_patch16_224", 30, {"depth": 1}),
    ("mixer_s16_224", 40, {"mlp_ratio": [0.5, 0.5]}),
    ("swin_tiny_patch4_window7_224", 30, {"depths": [1, 1, 1, 1], "embed_dim": 24}),
    ("eva02_tiny_patch14_224", 30, {"depth": 1}),
    ("convnext_atto", 34, {"depths": [1, 1, 1, 1]}),
    ("lenet", 29, {}),
]


@pytest.mark.parametrize(("name", "side", "kwargs"), PASSING_OVER)
def test_networks_that_pass_pixels_over_are_refused(
    name: str, side: int, kwargs: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"never looks at \d+ % of the pixels") as refused:
        build(name, side, **kwargs)
    advised = re.findall(r"data.image_size to (\d+)(?: or (\d+))?", str(refused.value))
    sides = [int(each) for each in advised[0] if each]
    assert any(abs(each - side) < 32 for each in sides)
    for each in sides:
        assert build(name, each, **kwargs)


@pytest.mark.parametrize(
    ("name", "side", "kwargs"),
    [
        ("vit_tiny_patch16_224", 32, {"depth": 1}),
        ("preact_resnet18", 9, {"base_width": 8}),
        ("resnet18", 33, {"zero_init_last": True}),
        ("lenet", 28, {}),
        ("convnet", 32, {}),
        ("nin", 32, {}),
        ("mlp", 7, {}),
        ("mixer_s16_224", 32, {}),
    ],
)
def test_networks_that_see_all_are_built(name: str, side: int, kwargs: dict[str, Any]) -> None:
    assert build(name, side, **kwargs)


def test_building_leaves_random_numbers_and_weights_alone() -> None:
    torch.manual_seed(0)
    model = build("mixer_s16_224", 32).eval()
    after = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not unreached_pixels(model, 1, (32, 32)).any()
    assert torch.equal(torch.get_rng_state(), after)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_pixels_are_missed_where_they_are() -> None:
    class Corner(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :, :5, :3].flatten(2).sum(2) * torch.ones(1, 2)

    missed = unreached_pixels(Corner(), 1, (6, 7))
    assert reached_size(missed) == (5, 3)
    assert int(missed.sum()) == 6 * 7 - 5 * 3


def test_a_network_without_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynat_ray.models import classifier

    forward = classifier.Classifier.forward
    monkeypatch.setattr(
        classifier.Classifier,
        "forward",
        lambda self, images: forward(self, images.detach()).detach(),
    )
    with pytest.raises(UserError, match="no gradient with respect to its images"):
        build("mlp", 8)
