"""ConvNeXt and ViT with the convolutional stem of Singh et al., written down anew.

As in `zoo_networks`, they share nothing with ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Layer normalisation over channels, as ConvNeXt's authors have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).square().mean(1, keepdim=True)
        x = (x - mean) / (spread + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def conv_stem(widths: list[int], strides: list[int], last: int = 0) -> nn.Module:
    """Singh et al.: 3x3 convolutions, each with a normalisation and GELU after it."""
    layers: list[nn.Module] = []
    for channels, width, stride in zip([3, *widths], widths, strides, strict=False):
        layers += [nn.Conv2d(channels, width, 3, stride, 1), ChannelNorm(width), nn.GELU()]
    if last:
        layers.append(nn.Conv2d(widths[-1], last, 1))
    stem = nn.Module()
    stem.stem = nn.Sequential(*layers)
    stem.forward = stem.stem.forward
    return stem


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        out = self.gamma * self.mlp.fc2(F.gelu(self.mlp.fc1(out)))
        return x + out.permute(0, 3, 1, 2)


class ConvStemConvNeXt(nn.Module):
    """Singh et al.: timm's names, but for `stem.stem.N`."""

    def __init__(self, stem: nn.Module, dims: list[int], classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        for index, width in enumerate(dims):
            stage = nn.Module()
            if index:
                before = dims[index - 1]
                stage.downsample = nn.Sequential(
                    ChannelNorm(before), nn.Conv2d(before, width, 2, 2)
                )
            stage.blocks = nn.Sequential(ConvNeXtBlock(width))
            self.stages.append(stage)
        self.head = nn.Module()
        self.head.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head.fc = nn.Linear(dims[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage.downsample(x) if hasattr(stage, "downsample") else x
            x = stage.blocks(x)
        return self.head.fc(self.head.norm(x.mean((2, 3))))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.attn.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.attn.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class ConvStemViT(nn.Module):
    """Singh et al.: timm's names, but for `patch_embed.proj.stem.N`."""

    def __init__(self, stem: nn.Module, width: int, heads: int, depth: int, tokens: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = stem
        self.blocks = nn.Sequential(*(ViTBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])
