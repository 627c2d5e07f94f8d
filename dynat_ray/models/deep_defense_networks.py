"""The small networks of Deep Defense (Yan, Guo & Zhang, NeurIPS 2018).

Layers as in the paper's experiments on MNIST (`mlp`, `lenet`, 28x28 grey) and CIFAR-10 (`convnet`,
`nin`, 32x32 RGB). The first two fit other image sizes through `img_size`; the other two average
over whatever is left of the image, which at 32x32 is what the paper's networks do.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """A trunk and a head with timm's interface.

    Args:
        trunk: From images to features.
        head: From features to logits.
        num_classes: Number of classes; 0: features, no logits.
        num_features: Length of the vector that the classifier sees.
    """

    def __init__(
        self, trunk: nn.Sequential, head: nn.Module, num_classes: int, num_features: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = num_features

    def forward_features(self, images: Tensor) -> Tensor:
        """Returns what the trunk makes of normalised images `(B, C, H, W)`."""
        features: Tensor = self.trunk(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Returns logits, or with `pre_logits` the vectors `(B, num_features)` they come from."""
        result: Tensor = self.head(features, pre_logits=pre_logits)
        return result

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer."""
        classifier: nn.Module = self.head.fc  # type: ignore[assignment]
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a new classifier for `num_classes` in place."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)  # type: ignore[operator]


class VectorHead(nn.Module):
    """The classifier of a network whose trunk ends in vectors."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.reset(num_classes)

    def reset(self, num_classes: int, global_pool: str | None = None) -> None:
        """Makes a new classifier; there is nothing to pool."""
        assert global_pool in (None, ""), "vectors can't be pooled"
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        if pre_logits:
            return features
        logits: Tensor = self.fc(features)
        return logits


class MLP(SmallNetwork):
    """Fully connected 500-150 with ReLU."""

    def __init__(
        self, num_classes: int = 10, in_chans: int = 1, img_size: int | tuple[int, int] = 28
    ) -> None:
        height, width = _pair(img_size)
        trunk = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_chans * height * width, 500),
            nn.ReLU(),
            nn.Linear(500, 150),
            nn.ReLU(),
        )
        super().__init__(trunk, VectorHead(150, num_classes), num_classes, 150)


class LeNet(SmallNetwork):
    """Two 5x5 convolutions with max-pooling (and no ReLU), then 500 units.

    Raises:
        ValueError: The image is smaller than 16x16: nothing would be left of it.
    """

    def __init__(
        self, num_classes: int = 10, in_chans: int = 1, img_size: int | tuple[int, int] = 28
    ) -> None:
        height, width = (((side - 4) // 2 - 4) // 2 for side in _pair(img_size))
        if min(height, width) < 1:
            raise ValueError("lenet needs images of at least 16x16 pixels")
        trunk = nn.Sequential(
            nn.Conv2d(in_chans, 20, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(50 * height * width, 500),
            nn.ReLU(),
        )
        super().__init__(trunk, VectorHead(500, num_classes), num_classes, 500)


class ConvNet(SmallNetwork):
    """Four convolutions; needs at least 29x29 pixels for the last, unpadded one."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        trunk = nn.Sequential(
            nn.Conv2d(in_chans, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(64, 64, 4),
            nn.ReLU(),
        )
        # A 1x1 convolution on one pixel is a linear layer.
        super().__init__(trunk, ClassifierHead(64, num_classes), num_classes, 64)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)


class NetworkInNetwork(SmallNetwork):
    """Three blocks of one wide and two 1x1 convolutions (Lin, Chen & Yan, 2014)."""

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.5) -> None:
        trunk = nn.Sequential(
            *_convolutions((in_chans, 192, 160, 96), 5),
            nn.MaxPool2d(2),
            nn.Dropout(drop_rate),
            *_convolutions((96, 192, 192, 192), 5),
            nn.AvgPool2d(2),
            nn.Dropout(drop_rate),
            *_convolutions((192, 192, 192), 3),
        )
        # The last 1x1 convolution and the average after it swap without changing the result.
        super().__init__(trunk, ClassifierHead(192, num_classes), num_classes, 192)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _convolutions(channels: tuple[int, ...], kernel: int) -> list[nn.Module]:
    """A `kernel` x `kernel` convolution, then 1x1 ones, each with ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.ReLU()]
        kernel = 1
    return layers


def _settings(input_size: tuple[int, int, int], fixed: bool, first: str) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 10,
        "input_size": input_size,
        "fixed_input_size": fixed,
        "pool_size": None,
        "first_conv": first,
        "classifier": "head.fc",
    }


default_cfgs = generate_default_cfgs(
    {
        "mlp": _settings((1, 28, 28), True, "trunk.1"),
        "lenet": _settings((1, 28, 28), True, "trunk.0"),
        "convnet": _settings((3, 32, 32), False, "trunk.0"),
        "nin": _settings((3, 32, 32), False, "trunk.0"),
    }
)


@register_model
def mlp(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Fully connected network (784-500-150-10 on MNIST)."""
    model: nn.Module = build_model_with_cfg(MLP, "mlp", pretrained, **settings)
    return model


@register_model
def lenet(pretrained: bool = False, **settings: Any) -> nn.Module:
    """LeNet as MatConvNet and Deep Defense have it."""
    model: nn.Module = build_model_with_cfg(LeNet, "lenet", pretrained, **settings)
    return model


@register_model
def convnet(pretrained: bool = False, **settings: Any) -> nn.Module:
    """The convolutional network of Deep Defense."""
    model: nn.Module = build_model_with_cfg(ConvNet, "convnet", pretrained, **settings)
    return model


@register_model
def nin(pretrained: bool = False, **settings: Any) -> nn.Module:
    """Network in network."""
    model: nn.Module = build_model_with_cfg(NetworkInNetwork, "nin", pretrained, **settings)
    return model
