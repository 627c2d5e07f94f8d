"""Building a classifier: normalisation inside, and what is said when it can't be built."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from dynat_ray.errors import UserError
from dynat_ray.models import Classifier, build_model, initialise_from, save_model


def build(name: str = "preact_resnet18", **changes: Any) -> Classifier:
    settings: dict[str, Any] = {
        "num_classes": 3,
        "channels": 1,
        "size": (8, 8),
        "mean": [0.3],
        "std": [0.2],
    }
    if name.startswith("preact"):
        settings["kwargs"] = {"base_width": 8}
    return build_model(name, **(settings | changes))


def test_normalises_inside() -> None:
    model = build().eval()
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(model(images), model.backbone((images - 0.3) / 0.2))


def test_is_in_training_mode_and_takes_channels_last() -> None:
    model = build(channels=3, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    assert model.training
    model.eval()
    images = torch.rand(2, 3, 8, 8)
    expected = model(images)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        model(images.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
    )


def test_size_reaches_architectures_that_depend_on_it() -> None:
    assert build("mlp").backbone.trunk[1].in_features == 64
    model = build("vit_tiny_patch16_224", size=(32, 48), kwargs={"depth": 1})
    assert model(torch.rand(2, 1, 32, 48)).shape == (2, 3)


def test_without_a_size_the_architecture_says_it() -> None:
    assert build(size=None).size == (32, 32)
    assert build("lenet", size=None).size == (28, 28)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("preact_resnet19", {}, ["preact_resnet19", "did you mean", "preact_resnet18"]),
        ("lenet", {}, ["lenet", "16x16"]),
        ("convnet", {}, ["convnet", "1x8x8", "--size"]),
        ("preact_resnet18", {"kwargs": {"base_widht": 8}}, ["base_widht", "model.kwargs"]),
        ("preact_resnet18", {"kwargs": {"act_layer": "rellu"}}, ["rellu", "model.kwargs"]),
        ("preact_resnet18", {"kwargs": {"base_width": "wide"}}, ["wide", "model.kwargs"]),
        ("preact_resnet18", {"kwargs": {"base_width": 12}}, ["12", "multiple of 8"]),
        ("preact_resnet18", {"pretrained": True}, ["weights", "model.pretrained"]),
        ("resnet18.nonsense", {"pretrained": True}, ["nonsense"]),
        (
            "preact_resnet18",
            {"kwargs": {"base_width": 8, "global_pool": ""}},
            ["global_pool", "logits"],
        ),
    ],
)
def test_mistakes_are_named(name: str, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build(name, **changes)
    for word in words:
        assert word in str(caught.value)


class Unreachable(Exception):
    """As network libraries raise, which know no common type."""


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ConnectionError("it failed"), "check the connection"),
        (Unreachable("it failed"), "check the connection"),
        (OSError(errno.ENOSPC, "it failed"), "make room on the disk"),
        (RuntimeError("it failed"), "check model.name and model.kwargs"),
    ],
)
def test_weights_that_cannot_be_had(
    error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def fail(name: str, pretrained: bool = False, **settings: Any) -> Any:
        if pretrained:
            raise error
        return create(name, **settings)

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError, match=rf"it failed\); {advice}, or .*model\.pretrained false"):
        build("resnet18", pretrained=True)


def test_published_weights_keep_their_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **settings: create(name, **settings)
    )
    colour = build("test_resnet", channels=3, mean=[0.0] * 3, std=[1.0] * 3, pretrained=True)
    published = timm.get_pretrained_cfg("test_resnet")
    assert published is not None
    torch.testing.assert_close(colour.mean.flatten(), torch.tensor(published.mean))
    grey = build("test_resnet", pretrained=True)
    torch.testing.assert_close(grey.std.flatten(), torch.tensor([sum(published.std) / 3]))


def without_head(model: Classifier) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in model.backbone.state_dict().items()
        if not name.startswith("head.fc")
    }


def test_starts_from_a_saved_model_with_its_normalisation(tmp_path: Path) -> None:
    source = build()
    save_model(source, tmp_path / "model")
    same = build(mean=[0.9], std=[0.9])
    initialise_from(same, str(tmp_path))
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(same.eval()(images), source.eval()(images), rtol=0, atol=0)


def test_a_model_that_is_not_there_cannot_be_started_from() -> None:
    with pytest.raises(UserError, match="nowhere holds no model"):
        initialise_from(build(), "nowhere")


def test_another_number_of_classes_gets_a_new_classifier(tmp_path: Path) -> None:
    source = build()
    save_model(source, tmp_path / "model")
    other = build(num_classes=5)
    initialise_from(other, str(tmp_path / "model"))
    assert other.eval()(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    for name, value in without_head(source).items():
        assert torch.equal(without_head(other)[name], value)


@pytest.mark.parametrize("names", [("dog", "cat", "owl"), ("cat", "dog", "elk")])
def test_as_many_other_classes_get_a_new_classifier(tmp_path: Path, names: tuple[str, ...]) -> None:
    source, other, same = build(num_classes=3), build(num_classes=3), build(num_classes=3)
    source.label_names = same.label_names = ("cat", "dog", "owl")
    other.label_names = names
    with torch.no_grad():
        source.backbone.head.fc.bias.fill_(7)
    save_model(source, tmp_path / "model")
    (word,) = initialise_from(other, str(tmp_path / "model"))
    assert "the classifier starts anew" in word
    assert not (other.backbone.head.fc.bias == 7).any()
    for name, value in without_head(source).items():
        assert torch.equal(without_head(other)[name], value)
    assert initialise_from(same, str(tmp_path / "model")) == []
    assert (same.backbone.head.fc.bias == 7).all()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mlp", {}, ["'preact_resnet18'", "'mlp'"]),
        ("preact_resnet18", {"kwargs": {"base_width": 16}}, ["base_width"]),
        ("preact_resnet18", {"channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3}, ["3"]),
    ],
)
def test_another_architecture_cannot_be_started_from(
    tmp_path: Path, name: str, changes: dict[str, Any], words: list[str]
) -> None:
    save_model(build(), tmp_path / "model")
    with pytest.raises(UserError) as caught:
        initialise_from(build(name, **changes), str(tmp_path / "model"))
    for word in ["init_from", *words]:
        assert word in str(caught.value)
