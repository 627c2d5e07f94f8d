"""How public zoos name the weights of networks that we have, too."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layout:
    """Names of weights in a zoo.

    Attributes:
        title: What to call it, for people.
        marks: Names that it has.
        lacks: Names that it has not.
        rules: Beginnings of names as regular expressions, each with what stands for it here.
        unused: Beginnings of names that the network never uses.
        arguments: What our architecture has to be built with to compute the same.
        exists_here: We have that architecture.
    """

    title: str
    marks: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    exists_here: bool = True

    def fits(self, names: Collection[str]) -> bool:
        """Returns whether the names of some weights are those of this layout."""
        return all(mark in names for mark in self.marks) and not any(
            lack in names for lack in self.lacks
        )

    def own_name(self, name: str) -> str | None:
        """Returns what we call a weight: as the zoo does where no rule says; None: unused."""
        if name.startswith(self.unused):
            return None
        for pattern, own in self.rules:
            new, changes = re.subn(f"^{pattern}", own, name)
            if changes:
                return new
        return name


def _stages(first: int, last: int, pattern: str, parts: Mapping[str, str]) -> Any:
    """Returns rules for blocks: `pattern` has the stage's number and a group for the block's."""
    return tuple(
        (
            pattern.format(stage=stage) + re.escape(theirs) + r"\.",
            rf"stages.{stage - first}.blocks.\1.{own}.",
        )
        for stage in range(first, last + 1)
        for theirs, own in parts.items()
    )


_WIDE = Layout(
    title="Wide ResNets of TRADES and RobustBench (conv1, block1.layer.0.conv1, ..., fc)",
    marks=("conv1.weight", "block1.layer.0.conv1.weight", "bn1.weight", "fc.weight"),
    rules=(
        (r"conv1\.", "stem.conv."),
        *_stages(
            1,
            3,
            r"block{stage}\.layer\.(\d+)\.",
            {
                "bn1": "norm1",
                "conv1": "conv1",
                "bn2": "norm2",
                "conv2": "conv2",
                "convShortcut": "downsample.conv",
            },
        ),
        (r"bn1\.", "norm."),
        (r"fc\.", "head.fc."),
    ),
    # TRADES built it and left it out of the forward pass.
    unused=("sub_block1.",),
)
_WIDE_OF_DEEPMIND = Layout(
    title="Wide ResNets of DeepMind and RobustBench (init_conv, layer.0.block.0.conv_0, ..., "
    "logits)",
    marks=("init_conv.weight", "layer.0.block.0.conv_0.weight", "logits.weight"),
    rules=(
        (r"init_conv\.", "stem.conv."),
        *_stages(
            0,
            2,
            r"layer\.{stage}\.block\.(\d+)\.",
            {
                "batchnorm_0": "norm1",
                "conv_0": "conv1",
                "batchnorm_1": "norm2",
                "conv_1": "conv2",
                "shortcut": "downsample.conv",
            },
        ),
        (r"batchnorm\.", "norm."),
        (r"logits\.", "head.fc."),
    ),
    arguments={"same_padding": True, "act_layer": "silu"},
)
_PREACT_RULES = (
    (r"conv1\.", "stem.conv."),
    *_stages(
        1,
        4,
        r"layer{stage}\.(\d+)\.",
        {
            "bn1": "norm1",
            "conv1": "conv1",
            "bn2": "norm2",
            "conv2": "conv2",
            "bn3": "norm3",
            "conv3": "conv3",
            "shortcut.0": "downsample.conv",
        },
    ),
    (r"bn\.", "norm."),
    (r"linear\.", "head.fc."),
)
_PREACT_MARKS = ("conv1.weight", "layer1.0.bn1.weight", "layer2.0.shortcut.0.weight")
_PREACT = Layout(
    title="PreAct-ResNets of Rice et al. and RobustBench (conv1, layer1.0.bn1, ..., bn, linear)",
    marks=(*_PREACT_MARKS, "bn.weight", "linear.weight"),
    lacks=("bn1.weight", "layer2.0.shortcut.1.weight"),
    rules=_PREACT_RULES,
)
_PREACT_WITHOUT_NORM = Layout(
    title="PreAct-ResNets of Wong et al. and RobustBench (conv1, layer1.0.bn1, ..., linear)",
    marks=(*_PREACT_MARKS, "linear.weight"),
    lacks=("bn.weight", "bn1.weight", "layer2.0.shortcut.1.weight"),
    rules=_PREACT_RULES,
    arguments={"raw_shortcut": True, "final_norm": False},
)
_CIFAR_RESNET = Layout(
    title="post-activation ResNets for small images (conv1, bn1, layer1.0.conv1, ..., linear)",
    marks=("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "linear.weight"),
    exists_here=False,
)
_RESNET = Layout(
    title="torchvision's, MadryLab's and timm's ResNets (conv1, bn1, layer1.0.conv1, ..., fc)",
    marks=("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.weight"),
)
_CONVNEXT = Layout(
    title="ConvNeXts with convolutional stems of Singh et al. (stem.stem.0, ..., head.fc)",
    marks=("stem.stem.0.weight", "stages.0.blocks.0.conv_dw.weight"),
)
_VIT = Layout(
    title="ViTs with convolutional stems of Singh et al. (patch_embed.proj.stem.0, ..., head)",
    marks=("patch_embed.proj.stem.0.weight", "blocks.0.attn.qkv.weight"),
)

OWN = Layout(title="our own and timm's networks", marks=())
LAYOUTS = (
    *(_WIDE, _WIDE_OF_DEEPMIND, _PREACT, _PREACT_WITHOUT_NORM),
    *(_CIFAR_RESNET, _RESNET, _CONVNEXT, _VIT),
)


def layout_of(names: Collection[str]) -> Layout:
    """Returns the layout that weights of these names have: our own and timm's, if none we know."""
    return next((layout for layout in LAYOUTS if layout.fits(names)), OWN)


def nearest_layout(names: Collection[str]) -> Layout:
    """Returns the layout that has the largest part of its marks among these names."""
    return max(
        LAYOUTS, key=lambda each: sum(mark in names for mark in each.marks) / len(each.marks)
    )
