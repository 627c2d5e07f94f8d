"""Pre-activation residual networks for small images, as the adversarial-training papers use.

PreAct-ResNet: He et al., "Identity Mappings in Deep Residual Networks" (2016), with the CIFAR stem
(3x3, stride 1, no max-pool). Wide ResNet: Zagoruyko & Komodakis (2016). Both are timm's ResNetV2
with another stem; depth d of a wide network means (d - 4) / 6 blocks in each of three stages.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

from timm.layers.create_conv2d import create_conv2d
from timm.layers.norm_act import BatchNormAct2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnetv2 import PreActBasic, ResNetV2
from torch import Tensor, nn


class SmallImageResNetV2(ResNetV2):
    """timm's ResNetV2 that keeps the full resolution until its first stage has ended.

    Args:
        layers: Blocks of each stage.
        channels: Output channels of each stage.
        stem_chs: Channels of the stem.
        in_chans: Channels of an image.
        same_padding: Pad as TensorFlow and JAX do, whose convolutions of stride 2 have their zeros
            below and to the right alone: what weights from there were trained with.
        raw_shortcut: Basic blocks that change shape have their shortcut begin before their first
            normalisation and not after it.
        final_norm: Normalise and activate the last features.
        settings: All other arguments of `ResNetV2`, such as `act_layer` (`relu`, `silu`, ...).
    """

    def __init__(
        self,
        layers: list[int],
        channels: tuple[int, ...],
        stem_chs: int,
        in_chans: int = 3,
        same_padding: bool = False,
        raw_shortcut: bool = False,
        final_norm: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(
            layers,
            channels=channels,
            stem_chs=stem_chs,
            in_chans=in_chans,
            conv_layer=partial(create_conv2d, padding="same") if same_padding else create_conv2d,
            norm_layer=BatchNormAct2d,
            **settings,
        )
        stem = nn.Conv2d(in_chans, stem_chs, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.stem = nn.Sequential(OrderedDict(conv=stem))
        # ResNetV2 counts a stem that shrinks the image four times (twice at its convolution).
        self.feature_info: list[dict[str, Any]] = [
            feature | {"reduction": max(1, feature["reduction"] // 4)}
            for feature in self.feature_info
        ]
        if raw_shortcut:
            for stage in self.stages:
                blocks: Any = stage.blocks
                if isinstance(blocks[0], PreActBasic) and blocks[0].downsample is not None:
                    blocks[0] = RawShortcutBlock(blocks[0])
        if not final_norm:
            self.norm = nn.Identity()


class RawShortcutBlock(nn.Module):
    """A pre-activation block whose shortcut takes its input before it is normalised.

    Args:
        block: Whose layers it takes over, with their names.
    """

    def __init__(self, block: PreActBasic) -> None:
        super().__init__()
        assert block.downsample is not None
        self.downsample = block.downsample
        self.norm1, self.conv1 = block.norm1, block.conv1
        self.norm2, self.conv2 = block.norm2, block.conv2
        self.drop_path = block.drop_path

    def forward(self, features: Tensor) -> Tensor:
        """Returns features `(B, K, H, W)` for features `(B, C, H, W)`."""
        residual = self.norm2(self.conv1(self.norm1(features)))
        result: Tensor = self.drop_path(self.conv2(residual)) + self.downsample(features)
        return result


default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": pool_size,
            # The papers' networks take images in [0, 1] as they are.
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
            "first_conv": "stem.conv",
            "classifier": "head.fc",
        }
        for pool_size, names in (
            ((4, 4), ("preact_resnet10", "preact_resnet18", "preact_resnet34", "preact_resnet50")),
            (
                (8, 8),
                (
                    "wide_resnet",
                    "wide_resnet28_10",
                    "wide_resnet34_10",
                    "wide_resnet34_20",
                    "wide_resnet70_16",
                ),
            ),
        )
        for name in names
    }
)


def _build(name: str, pretrained: bool, stages: int, settings: dict[str, Any]) -> nn.Module:
    model: nn.Module = build_model_with_cfg(
        SmallImageResNetV2,
        name,
        pretrained,
        feature_cfg={"flatten_sequential": True, "out_indices": tuple(range(stages + 1))},
        **settings,
    )
    return model


def _preact(
    name: str, pretrained: bool, layers: list[int], *, basic: bool, base_width: int, **settings: Any
) -> nn.Module:
    if base_width < 8 or base_width % 8:
        # timm rounds all channels to multiples of 8, but for the stem's.
        raise ValueError(f"base_width is {base_width}; it must be a multiple of 8")
    expansion = 1 if basic else 4
    shape = {
        "layers": layers,
        "channels": tuple(base_width * expansion * 2**stage for stage in range(4)),
        "stem_chs": base_width,
        "basic": basic,
        "bottle_ratio": 1 / expansion,
    }
    return _build(name, pretrained, 4, shape | settings)


def _wide(name: str, pretrained: bool, depth: int, widen: int, **settings: Any) -> nn.Module:
    shape = {
        "layers": [(depth - 4) // 6] * 3,
        "channels": (16 * widen, 32 * widen, 64 * widen),
        "stem_chs": 16,
        "basic": True,
        "bottle_ratio": 1.0,
    }
    return _build(name, pretrained, 3, shape | settings)


@register_model
def preact_resnet10(pretrained: bool = False, base_width: int = 64, **settings: Any) -> nn.Module:
    """PreAct-ResNet with one block in each stage, for quick runs on tiny images."""
    return _preact(
        "preact_resnet10", pretrained, [1, 1, 1, 1], basic=True, base_width=base_width, **settings
    )


@register_model
def preact_resnet18(pretrained: bool = False, base_width: int = 64, **settings: Any) -> nn.Module:
    """PreAct-ResNet-18; `base_width` is the number of channels of its first stage."""
    return _preact(
        "preact_resnet18", pretrained, [2, 2, 2, 2], basic=True, base_width=base_width, **settings
    )


@register_model
def preact_resnet34(pretrained: bool = False, base_width: int = 64, **settings: Any) -> nn.Module:
    """PreAct-ResNet-34; `base_width` is the number of channels of its first stage."""
    return _preact(
        "preact_resnet34", pretrained, [3, 4, 6, 3], basic=True, base_width=base_width, **settings
    )


@register_model
def preact_resnet50(pretrained: bool = False, base_width: int = 64, **settings: Any) -> nn.Module:
    """PreAct-ResNet-50 of bottleneck blocks; its first stage has `4 * base_width` channels."""
    return _preact(
        "preact_resnet50", pretrained, [3, 4, 6, 3], basic=False, base_width=base_width, **settings
    )


@register_model
def wide_resnet(
    pretrained: bool = False, depth: int = 28, widen: int = 10, **settings: Any
) -> nn.Module:
    """Wide ResNet of any depth, which is 4 more than a multiple of 6, and `widen` times as wide."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth is {depth}; it must be 4 more than a multiple of 6")
    if widen < 1:
        raise ValueError(f"widen is {widen}; it must be 1 or more")
    return _wide("wide_resnet", pretrained, depth, widen, **settings)


@register_model
def wide_resnet28_10(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Wide ResNet of depth 28, ten times as wide."""
    return _wide("wide_resnet28_10", pretrained, 28, 10, **settings)


@register_model
def wide_resnet34_10(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Wide ResNet of depth 34, ten times as wide."""
    return _wide("wide_resnet34_10", pretrained, 34, 10, **settings)


@register_model
def wide_resnet34_20(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Wide ResNet of depth 34, twenty times as wide."""
    return _wide("wide_resnet34_20", pretrained, 34, 20, **settings)


@register_model
def wide_resnet70_16(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Wide ResNet of depth 70, sixteen times as wide."""
    return _wide("wide_resnet70_16", pretrained, 70, 16, **settings)
