"""`model.freeze`: what is frozen does not move, its statistics neither."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynat_ray.config import OptimConfig
from dynat_ray.errors import UserError
from dynat_ray.models import Classifier, build_model, freeze
from dynat_ray.training.optimisation import build_optimizer


def build(name: str = "preact_resnet10", **kwargs: Any) -> Classifier:
    return build_model(
        name,
        num_classes=3,
        channels=3,
        size=(16, 16),
        mean=[0.5] * 3,
        std=[0.5] * 3,
        kwargs=kwargs or {"base_width": 8},
    )


def changed(model: Classifier, config: OptimConfig) -> set[str]:
    """Returns the names of what a step in training mode has moved."""
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = build_optimizer(model, config)
    model.train()(torch.rand(4, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    after = model.backbone.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("config", [OptimConfig(), OptimConfig(layer_decay=0.5, head_lr_ratio=3)])
def test_only_the_classifier_moves(config: OptimConfig) -> None:
    model = build()
    freeze(model, ["backbone"])
    assert changed(model, config) == {"head.fc.weight", "head.fc.bias"}


def test_patterns_and_modules_stay_and_the_rest_moves() -> None:
    model = build()
    freeze(model, ["stem", "stages.[01].*"])
    moved = changed(model, OptimConfig())
    assert not [name for name in moved if name.startswith(("stem", "stages.0", "stages.1"))]
    assert "stages.2.blocks.0.norm1.running_mean" in moved
    assert "stages.3.blocks.0.conv1.weight" in moved


@pytest.mark.parametrize(
    ("patterns", "words"),
    [(["stm"], "names nothing.*stem, stages, norm, head"), (["*"], "freezes everything")],
)
def test_nothing_and_everything_are_refused(patterns: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        freeze(build(), patterns)


def test_rates_fall_from_the_head_to_the_stem() -> None:
    model = build("vit_tiny_patch16_224", depth=2, embed_dim=12, num_heads=2, img_size=16)
    config = OptimConfig(name="adamw", lr=1.0, layer_decay=0.5, head_lr_ratio=10)
    optimizer = build_optimizer(model, config)
    rates = {
        id(each): (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for each in group["params"]
    }
    named = {name: rates[id(each)] for name, each in model.backbone.named_parameters()}
    assert named["head.weight"] == (10.0, config.weight_decay)
    assert named["head.bias"] == (10.0, 0)
    assert named["blocks.1.mlp.fc1.weight"][0] == 2 * named["blocks.0.mlp.fc1.weight"][0]
    assert named["blocks.0.mlp.fc1.weight"][0] == 2 * named["patch_embed.proj.weight"][0]
    assert named["pos_embed"][1] == 0, "which the network spares"
    assert len(rates) == len(named)
