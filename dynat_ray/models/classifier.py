"""A network together with the normalisation its weights were made for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynat_ray.forward_units import entering, leaving


class Classifier(nn.Module):
    """Takes images in [0, 1] and returns logits; attacks never see normalised pixels.

    Mean and standard deviation are no part of `state_dict`: they belong to the architecture's
    description (`config.json`), and the weights stay loadable by timm as they are.

    Args:
        backbone: Takes normalised images `(B, C, H, W)`, returns logits `(B, num_classes)`.
        name: Its name in timm's registry.
        arguments: Keyword arguments it was built with, beside classes and channels.
        num_classes: Number of classes.
        size: Height and width in pixels it was built for.
        mean: Mean of each channel, in [0, 1] pixels.
        std: Standard deviation of each channel.

    Attributes:
        label_names: Names of the classes, in the order of the logits; empty: not known.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        arguments: Mapping[str, Any],
        num_classes: int,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.arguments = dict(arguments)
        self.num_classes = num_classes
        self.channels = len(mean)
        self.size = size
        self._kept: list[str] = []
        self.label_names: tuple[str, ...] = ()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(
        self, images: Tensor, change_features: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Returns logits `(B, num_classes)` for images `(B, C, H, W)` in [0, 1].

        Args:
            images: In [0, 1].
            change_features: Applied between trunk and head (timm's `forward_features` and
                `forward_head`), to features `(B, ...)`; it may return more rows than it got.
        """
        if change_features is not None:
            return self.head(change_features(self.features(images)))
        logits: Tensor = self.backbone(self._normalised(images))
        # Not `len`: it would make an exported graph one of this many images.
        return leaving(logits, self, images.shape[0])

    def head_names(self) -> set[str]:
        """Returns the backbone's names of the weights that make logits of features."""
        described: dict[str, Any] = self.backbone.pretrained_cfg  # type: ignore[assignment]
        found = described.get("classifier") or ()
        heads = (found,) if isinstance(found, str) else tuple(found)
        own = self.backbone.state_dict()
        return {name for name in own if any(name.startswith(f"{head}.") for head in heads)}

    def keep_frozen_statistics(self) -> None:
        """Has batch normalisation whose parameters are frozen stay in eval mode from now on."""
        self._kept = [
            name
            for name, module in self.named_modules()
            if isinstance(module, _BatchNorm)
            and (own := list(module.parameters()))
            and not any(each.requires_grad for each in own)
        ]
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Sets the mode, but for what `keep_frozen_statistics` keeps in eval mode."""
        super().train(mode)
        for name in self._kept:
            self.get_submodule(name).eval()
        return self

    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters that weight decay spares; timm's optimisers ask."""
        spared: Callable[[], Iterable[str]] = getattr(self.backbone, "no_weight_decay", tuple)  # type: ignore[assignment]
        return {f"backbone.{name}" for name in spared()}

    def features(self, images: Tensor) -> Tensor:
        """Returns what the trunk makes of images `(B, C, H, W)` in [0, 1], `(B, ...)`."""
        features: Tensor = self.backbone.forward_features(self._normalised(images))  # type: ignore[operator]
        return leaving(features, self, images.shape[0])

    def head(self, features: Tensor) -> Tensor:
        """Returns the logits `(B, num_classes)` that the head makes of features `(B, ...)`."""
        logits: Tensor = self.backbone.forward_head(features)  # type: ignore[operator]
        return logits

    def _normalised(self, images: Tensor) -> Tensor:
        return (entering(images, self) - self.mean) / self.std
