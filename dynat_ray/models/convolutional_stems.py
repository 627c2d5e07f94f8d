"""ConvNeXt and ViT with stems of small convolutions in the place of patches, at 224 px.

Singh, Croce & Hein, "Revisiting Adversarial Training for ImageNet: Architectures, Training and
Generalization across Threat Models" (2023): with such a stem both are more robust than without.
Everything but the stem is timm's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from timm.layers.norm import LayerNorm2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def _stem(in_chans: int, widths: Sequence[int], strides: Sequence[int]) -> OrderedDict[str, Any]:
    """Returns 3x3 convolutions, each with a layer normalisation and GELU after it."""
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        layers += [nn.Conv2d(in_chans, width, 3, stride, 1), LayerNorm2d(width), nn.GELU()]
        in_chans = width
    return OrderedDict(stem=nn.Sequential(*layers))


class ConvStemConvNeXt(ConvNeXt):
    """timm's ConvNeXt with two or three 3x3 convolutions as its stem.

    Args:
        in_chans: Channels of an image.
        dims: Channels of each stage; the stem grows to the first from a half of it.
        stem_steps: Convolutions of the stem, 2 or 3. The first two halve the image.
        settings: All other arguments of `ConvNeXt`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dims: Sequence[int] = (96, 192, 384, 768),
        stem_steps: int = 2,
        **settings: Any,
    ) -> None:
        super().__init__(in_chans=in_chans, dims=tuple(dims), **settings)
        if stem_steps not in (2, 3):
            raise ValueError(f"stem_steps is {stem_steps}; it must be 2 or 3")
        between = [dims[0] * 3 // 4] if stem_steps == 3 else []
        widths = [dims[0] // 2, *between, dims[0]]
        self.stem = nn.Sequential(_stem(in_chans, widths, (2, 2, 1)[:stem_steps]))


class ConvStemViT(VisionTransformer):
    """timm's ViT whose patches come from four 3x3 convolutions that halve the image.

    Args:
        in_chans: Channels of an image.
        embed_dim: Numbers of a token.
        stem_width: Channels of the first convolution; each after it has twice as many.
        settings: All other arguments of `VisionTransformer`.
    """

    def __init__(
        self, in_chans: int = 3, embed_dim: int = 384, stem_width: int = 48, **settings: Any
    ) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, patch_size=16, **settings)
        widths = [stem_width * 2**step for step in range(4)]
        layers = _stem(in_chans, widths, (2, 2, 2, 2))
        layers["stem"].append(nn.Conv2d(widths[-1], embed_dim, 1))
        self.patch_embed.proj = nn.Sequential(layers)  # type: ignore[union-attr]


_CONVNEXTS = {
    "convnext_tiny_convstem": ((3, 3, 9, 3), (96, 192, 384, 768), 2),
    "convnext_small_convstem": ((3, 3, 27, 3), (96, 192, 384, 768), 2),
    "convnext_base_convstem": ((3, 3, 27, 3), (128, 256, 512, 1024), 3),
    "convnext_large_convstem": ((3, 3, 27, 3), (192, 384, 768, 1536), 3),
}
_VITS: dict[str, dict[str, Any]] = {
    "vit_small_convstem": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base_convstem": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        }
        | (
            {"pool_size": (7, 7), "first_conv": "stem.stem.0", "classifier": "head.fc"}
            if name in _CONVNEXTS
            else {
                "fixed_input_size": True,
                "first_conv": "patch_embed.proj.stem.0",
                "classifier": "head",
            }
        )
        for name in (*_CONVNEXTS, *_VITS)
    }
)


def _convnext(name: str, pretrained: bool, settings: dict[str, Any]) -> nn.Module:
    depths, dims, steps = _CONVNEXTS[name]
    shape: dict[str, Any] = {"depths": depths, "dims": dims, "stem_steps": steps}
    model: nn.Module = build_model_with_cfg(
        ConvStemConvNeXt,
        name,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **(shape | settings),
    )
    return model


def _vit(name: str, pretrained: bool, settings: dict[str, Any]) -> nn.Module:
    model: nn.Module = build_model_with_cfg(
        ConvStemViT, name, pretrained, **(_VITS[name] | settings)
    )
    return model


@register_model
def convnext_tiny_convstem(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ConvNeXt-T with a stem of two convolutions."""
    return _convnext("convnext_tiny_convstem", pretrained, settings)


@register_model
def convnext_small_convstem(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ConvNeXt-S with a stem of two convolutions."""
    return _convnext("convnext_small_convstem", pretrained, settings)


@register_model
def convnext_base_convstem(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ConvNeXt-B with a stem of three convolutions."""
    return _convnext("convnext_base_convstem", pretrained, settings)


@register_model
def convnext_large_convstem(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ConvNeXt-L with a stem of three convolutions."""
    return _convnext("convnext_large_convstem", pretrained, settings)


@register_model
def vit_small_convstem(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ViT-S/16 with a stem of four convolutions."""
    return _vit("vit_small_convstem", pretrained, settings)


@register_model
def vit_base_convstem(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ViT-B/16 with a stem of four convolutions."""
    return _vit("vit_base_convstem", pretrained, settings)
