"""`convert`: the layouts of public zoos become networks of ours that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dynat_ray
from dynat_ray import convert
from dynat_ray.errors import UserError
from tests.models import convstem_networks as convstem
from tests.models import zoo_networks as zoo

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)


def preact(*, norm: bool) -> nn.Module:
    return zoo.PreActResNet18(8, 7, norm=norm)


def convnext(steps: int) -> nn.Module:
    widths = [8, 16] if steps == 2 else [8, 12, 16]
    stem = convstem.conv_stem(widths, [2, 2, 1][:steps])
    return convstem.ConvStemConvNeXt(stem, [16, 24, 32, 40], 7)


def vit() -> nn.Module:
    stem = convstem.conv_stem([4, 8, 16, 32], [2] * 4, 24)
    return convstem.ConvStemViT(stem, 24, 3, 2, 4)


def resnet50_madry() -> nn.Module:
    return zoo.Attacked(zoo.ImageNetResNet(zoo.Bottleneck, [1, 2, 1, 1], 64, 256))


def wide_resnet50_madry() -> nn.Module:
    return zoo.Attacked(zoo.ImageNetResNet(zoo.Bottleneck, [1, 1, 1, 1], 32, 256))


def resnet18() -> nn.Module:
    return zoo.ImageNetResNet(zoo.Basic, [2, 2, 2, 2], 64, 64)


NEXT = "{depths: [1, 1, 1, 1], dims: [16, 24, 32, 40]%s}"
VIT = "{embed_dim: 24, depth: 2, num_heads: 3, stem_width: 4}"
CASES: dict[str, tuple[Callable[[], nn.Module], list[str], bool]] = {
    # Of each: the source, options beside the file, and whether the source normalises itself.
    "trades": (lambda: zoo.TradesWideResNet(16, 2, 7), ["--arch", "wide_resnet"], True),
    "deepmind": (lambda: zoo.DeepMindWideResNet(16, 1, 7), ["--arch", "wide_resnet"], True),
    "deepmind-relu": (
        lambda: zoo.DeepMindWideResNet(10, 2, 7, F.relu),
        ["--arch", "wide_resnet", "--kwargs", "{act_layer: relu}"],
        True,
    ),
    "preact": (lambda: preact(norm=True), ["--arch", "preact_resnet18"], True),
    "preact-raw": (lambda: preact(norm=False), ["--arch", "preact_resnet18"], True),
    "convnext": (
        lambda: convnext(2),
        ["--arch", "convnext_tiny_convstem", "--kwargs", NEXT % ""],
        False,
    ),
    "convnext-base": (
        lambda: convnext(3),
        ["--arch", "convnext_base_convstem", "--kwargs", NEXT % ""],
        False,
    ),
    "vit": (vit, ["--arch", "vit_small_convstem", "--kwargs", VIT, "--size", "32"], False),
    "madry-resnet50": (
        resnet50_madry,
        ["--arch", "resnet50", "--kwargs", "{layers: [1, 2, 1, 1]}"],
        True,
    ),
    "microsoft-wide-resnet50": (
        wide_resnet50_madry,
        ["--arch", "wide_resnet50_2", "--kwargs", "{layers: [1, 1, 1, 1], base_width: 32}"],
        True,
    ),
    "microsoft-resnet18": (resnet18, ["--arch", "resnet18"], False),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_source(tmp_path: Path, case: str) -> None:
    build, options, normalises = CASES[case]
    source = zoo.randomise(build())
    torch.save({"model": source.state_dict(), "epoch": 3}, tmp_path / "weights.pt")
    folder = convert.main([str(tmp_path / "weights.pt"), *options, "--out", str(tmp_path / "out")])
    images = IMAGES if normalises else (IMAGES - IMAGENET[:1]) / IMAGENET[1:]
    with torch.no_grad():
        expected = source(images)
        found = dynat_ray.load_model(folder)(IMAGES)
    assert expected.std() > 1e-3, "logits that say nothing"
    torch.testing.assert_close(found / expected.std(), expected / expected.std(), rtol=0, atol=1e-5)


def save(folder: Path, content: Any, name: str = "weights.pth") -> Path:
    file = folder / name
    torch.save(content, file)
    return file


def run(file: Path, architecture: str, *options: str) -> dynat_ray.models.Classifier:
    out = file.parent / "out"
    return dynat_ray.load_model(
        convert.main([str(file), "--arch", architecture, "--out", str(out), *options])
    )


def test_what_the_file_does_not_say_is_told_and_can_be_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path, zoo.randomise(preact(norm=True)).state_dict())
    model = run(file, "preact_resnet18")
    assert "no normalisation inside" in capsys.readouterr().err
    assert model.mean.flatten().tolist() == [0, 0, 0]
    other = file.rename(tmp_path / "other.pth")
    model = dynat_ray.load_model(
        convert.main(
            [str(other), "--arch", "preact_resnet18", "--out", str(tmp_path / "b")]
            + ["--mean", "0.5", "--std", "0.2,0.3,0.4"]
        )
    )
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.5] * 3))
    torch.testing.assert_close(model.std.flatten(), torch.tensor([0.2, 0.3, 0.4]))
    assert "no normalisation inside" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        ("resnet18", [], ["no classifier", "Wide ResNets of TRADES"]),
        ("wide_resnet", ["--kwargs", "{depth: 22}"], ["stages", "tensors are not in it"]),
        ("wide_resnet", ["--kwargs", "{widen: 3}"], ["conv1.weight is (16, 16, 3, 3), not (48"]),
        ("wide_resnets", [], ["did you mean"]),
        ("wide_resnet", ["--kwargs", "{depht: 22}"], ["depht"]),
        ("wide_resnet", ["--kwargs", "7"], ["--kwargs"]),
        ("wide_resnet", ["--std", "0.1,0"], ["--std"]),
        ("wide_resnet", ["--mean", "0.1,0.2"], ["channels"]),
        ("wide_resnet", ["--size", "0"], ["--size"]),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, architecture: str, options: list[str], words: list[str]
) -> None:
    file = save(tmp_path, zoo.TradesWideResNet(10, 1, 7).state_dict())
    with pytest.raises(UserError) as caught:
        run(file, architecture, *options)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_layout_without_a_network_here_is_named(tmp_path: Path) -> None:
    network = resnet18()
    network.linear = network.fc
    del network.fc
    file = save(tmp_path, network.state_dict())
    with pytest.raises(UserError, match="post-activation ResNets for small images"):
        run(file, "preact_resnet18")


def test_half_a_checkpoint_is_refused_by_the_names_it_lacks(tmp_path: Path) -> None:
    state = zoo.TradesWideResNet(16, 1, 7).state_dict()
    state["surplus.weight"] = torch.zeros(2, 5)
    state = {name: value for name, value in state.items() if not name.startswith("block2.layer.1")}
    with pytest.raises(UserError, match=r"tensors are not in it: stages\.1\.blocks\.") as caught:
        run(save(tmp_path, state), "wide_resnet", "--kwargs", "{depth: 16}")
    assert "surplus.weight (2, 5)" in str(caught.value)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    file = save(tmp_path, preact(norm=True).state_dict())
    with pytest.raises(UserError, match="already"):
        convert.main([str(file), "--arch", "preact_resnet18", "--out", str(tmp_path)])
    assert [each.name for each in tmp_path.iterdir()] == [file.name]
