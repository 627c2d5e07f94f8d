"""The registered architectures: their sizes, inputs, and timm's interface."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import dynat_ray  # noqa: F401  (registers them)

# Parameters with ten classes, counted by hand from the layers; those of preact_resnet18 and
# wide_resnet28_10 are also published.
PARAMETERS = {
    "preact_resnet10": 4_901_450,
    "preact_resnet18": 11_172_170,
    "preact_resnet34": 21_280_330,
    "preact_resnet50": 23_513_162,
    "wide_resnet28_10": 36_479_194,
    "wide_resnet34_10": 46_160_474,
    "wide_resnet34_20": 184_531_674,
    "wide_resnet70_16": 266_796_506,
    "mlp": 784 * 500 + 500 + 500 * 150 + 150 + 150 * 10 + 10,
    "lenet": 25 * 20 + 20 + 25 * 20 * 50 + 50 + 800 * 500 + 500 + 500 * 10 + 10,
    "convnet": 145_578,
    "nin": 966_986,
}
SMALL = {
    "preact_resnet18": {"base_width": 8},
    "preact_resnet34": {"base_width": 8},
    "preact_resnet50": {"base_width": 8},
    "lenet": {},
    "mlp": {},
    "convnet": {},
    "nin": {},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_takes_grey_and_rgb_and_any_number_of_classes(name: str, channels: int) -> None:
    fixed = {"img_size": 32} if name in ("mlp", "lenet") else {}
    model = timm.create_model(name, num_classes=7, in_chans=channels, **SMALL[name], **fixed)
    assert model.eval()(torch.rand(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
def test_features_and_head_make_the_logits(name: str) -> None:
    model = timm.create_model(name, num_classes=4, **SMALL[name]).eval()
    images = torch.rand(2, *model.pretrained_cfg["input_size"])
    features = model.forward_features(images)
    vectors = model.forward_head(features, pre_logits=True)
    assert vectors.shape == (2, model.num_features)
    torch.testing.assert_close(model.forward_head(features), model(images))
    model.reset_classifier(9)
    assert model(images).shape == (2, 9)


@pytest.mark.parametrize("name", ["preact_resnet18", "wide_resnet28_10"])
def test_stem_keeps_the_resolution(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
        stem = model.stem(torch.empty(1, 3, 32, 32))
        features = model.forward_features(torch.empty(1, 3, 32, 32))
    assert stem.shape[-2:] == (32, 32)
    assert features.shape[-2:] == ((4, 4) if name == "preact_resnet18" else (8, 8))


@pytest.mark.parametrize("side", [8, 64])
def test_preact_resnet_takes_other_sizes(side: int) -> None:
    model = timm.create_model("preact_resnet18", num_classes=10, base_width=8, in_chans=1)
    assert model(torch.rand(2, 1, side, side)).shape == (2, 10)


def test_activation_can_be_chosen() -> None:
    model = timm.create_model("preact_resnet18", base_width=8, act_layer="silu")
    kinds = {type(module) for module in model.modules()}
    assert nn.SiLU in kinds
    assert nn.ReLU not in kinds


def test_one_preact_block_is_the_published_formula() -> None:
    model = timm.create_model("preact_resnet18", base_width=8).eval()
    block = model.stages[1].blocks[0]
    inputs = torch.randn(2, 8, 8, 8)

    def activate(norm: nn.BatchNorm2d, values: torch.Tensor) -> torch.Tensor:
        normal = (values - norm.running_mean.view(1, -1, 1, 1)) / torch.sqrt(
            norm.running_var.view(1, -1, 1, 1) + norm.eps
        )
        return torch.relu(normal * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1))

    before = activate(block.norm1, inputs)
    inner = torch.conv2d(before, block.conv1.weight, stride=2, padding=1)
    inner = torch.conv2d(activate(block.norm2, inner), block.conv2.weight, padding=1)
    shortcut = torch.conv2d(before, block.downsample.conv.weight, stride=2)
    torch.testing.assert_close(block(inputs), inner + shortcut)


def test_nin_averages_what_its_last_convolution_gives() -> None:
    """The order of the paper: 1x1 convolution to the classes, then the average."""
    model = timm.create_model("nin", num_classes=10).eval()
    images = torch.rand(2, 3, 32, 32)
    weight, bias = model.head.fc.weight, model.head.fc.bias
    maps = torch.conv2d(model.forward_features(images), weight[:, :, None, None], bias)
    torch.testing.assert_close(model(images), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("name", ["preact_resnet18", "lenet", "nin"])
def test_compiles_as_one_graph(name: str) -> None:
    """One graph: nothing in the forward pass waits for the host."""
    model = timm.create_model(name, num_classes=4, **SMALL[name]).eval()
    images = torch.rand(2, *model.pretrained_cfg["input_size"])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), model(images))


def test_feature_maps_of_a_wide_network() -> None:
    with torch.device("meta"):
        model = timm.create_model("wide_resnet28_10", features_only=True)
        shapes = [tuple(maps.shape[1:]) for maps in model(torch.empty(1, 3, 32, 32))]
    assert shapes == [(16, 32, 32), (160, 32, 32), (320, 16, 16), (640, 8, 8)]
    assert model.feature_info.reduction() == [1, 1, 2, 4]
