"""Networks of public zoos, written down anew: names of weights and what is computed with them.

Each is told by its source's description: normalise, convolve, add. They share nothing with ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NORMALISATION = ("mu", "sigma", "mean", "std", "new_mean", "new_std")


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every weight and statistic a value that tells a mistake; returns it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point() or name.rpartition(".")[2] in _NORMALISATION:
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            scale = 1.0 if tensor.ndim < 2 else (2 / tensor[0].numel()) ** 0.5
            tensor.normal_(0, scale, generator=generator)
    return network.eval()


def conv3(channels: int, width: int, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding, bias=False)


class TradesBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv3(channels, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3(width, width)
        self.convShortcut = None
        if channels != width:
            self.convShortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class TradesWideResNet(nn.Module):
    """`conv1, block1.layer.0..., bn1, fc`, with the unused `sub_block1` and with `mu`, `sigma`."""

    def __init__(self, depth: int, widen: int, classes: int) -> None:
        super().__init__()
        widths, blocks = [16, 16 * widen, 32 * widen, 64 * widen], (depth - 4) // 6
        self.register_buffer("mu", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))
        self.conv1 = conv3(3, 16)
        for stage in (1, 2, 3):
            group = nn.Module()
            group.layer = nn.Sequential(
                *(
                    TradesBlock(
                        widths[stage - 1] if block == 0 else widths[stage],
                        widths[stage],
                        2 if block == 0 and stage > 1 else 1,
                    )
                    for block in range(blocks)
                )
            )
            self.add_module(f"block{stage}", group)
        self.sub_block1 = TradesBlock(16, widths[1], 1)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1((x - self.mu) / self.sigma)
        for stage in (1, 2, 3):
            x = getattr(self, f"block{stage}").layer(x)
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class DeepMindBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, act: Callable[..., Tensor]) -> None:
        super().__init__()
        self.act, self.stride = act, stride
        self.batchnorm_0 = nn.BatchNorm2d(channels)
        self.conv_0 = conv3(channels, width, stride, padding=0)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(width), conv3(width, width)
        self.shortcut = None
        if channels != width:
            self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.act(self.batchnorm_0(x))
        # As TensorFlow's SAME: an even image has its zeros below and to the right.
        padded = F.pad(active, (0, 1, 0, 1) if self.stride == 2 else (1, 1, 1, 1))
        out = self.conv_1(self.act(self.batchnorm_1(self.conv_0(padded))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class DeepMindWideResNet(nn.Module):
    """`init_conv, layer.0.block.0..., batchnorm, logits`, with `mean` and `std` inside."""

    def __init__(
        self, depth: int, widen: int, classes: int, act: Callable[..., Tensor] = F.silu
    ) -> None:
        super().__init__()
        self.act = act
        widths, blocks = [16, 16 * widen, 32 * widen, 64 * widen], (depth - 4) // 6
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.register_buffer("std", torch.ones(3, 1, 1))
        self.init_conv = conv3(3, 16)
        groups = []
        for stage in range(3):
            group = nn.Module()
            group.block = nn.Sequential(
                *(
                    DeepMindBlock(
                        widths[stage] if block == 0 else widths[stage + 1],
                        widths[stage + 1],
                        2 if block == 0 and stage > 0 else 1,
                        act,
                    )
                    for block in range(blocks)
                )
            )
            groups.append(group)
        self.layer = nn.Sequential(*groups)
        self.batchnorm, self.logits = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.init_conv((x - self.mean) / self.std)
        for group in self.layer:
            x = group.block(x)
        return self.logits(self.act(self.batchnorm(x)).mean((2, 3)))


class PreActBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, raw: bool) -> None:
        super().__init__()
        self.raw = raw
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv3(channels, width, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv3(width, width)
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (self.shortcut(x if self.raw else active) if hasattr(self, "shortcut") else x)


class PreActResNet18(nn.Module):
    """`conv1, layer1.0..., linear`; with `bn` before `linear` shortcuts begin after `bn1`."""

    def __init__(self, width: int, classes: int, norm: bool) -> None:
        super().__init__()
        self.conv1, channels = conv3(3, width), width
        for stage in range(4):
            out = width * 2**stage
            blocks = [
                PreActBlock(channels, out, 2 if stage else 1, not norm),
                PreActBlock(out, out, 1, not norm),
            ]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            channels = out
        if norm:
            self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        x = F.relu(self.bn(x)) if hasattr(self, "bn") else x
        return self.linear(x.mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self, channels: int, inner: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv3(inner, inner, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Basic(nn.Module):
    def __init__(self, channels: int, inner: int, width: int, stride: int) -> None:
        super().__init__()
        assert inner == width
        self.conv1, self.bn1 = conv3(channels, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3(width, width), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ImageNetResNet(nn.Module):
    """torchvision's names, which MadryLab and Microsoft use: `conv1, bn1, layer1.0..., fc`."""

    def __init__(self, block: type[nn.Module], layers: list[int], inner: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(layers):
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(block(channels, inner * 2**stage, out * 2**stage, stride))
                channels = out * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class Normaliser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("new_mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("new_std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.new_mean) / self.new_std


class Attacked(nn.Module):
    """MadryLab's wrapper: the network, once more inside an attacker, and what normalises."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalizer, self.model = Normaliser(), network
        self.attacker = nn.Module()
        self.attacker.normalize, self.attacker.model = Normaliser(), network

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.normalizer(x))
