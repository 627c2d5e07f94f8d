"""Which batch normalisations of a network can become part of the convolution before them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.graph import Node

# Exact types: a subclass may do something else.
_BATCH_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def find_fusions(probe: nn.Module, images: Tensor) -> dict[str, str]:
    """Puts images through a network and looks which batch normalisation follows which convolution.

    Args:
        probe: A copy that may be changed: its batch normalisations get random statistics, the same
            each time, since new ones change nothing and so would hide a mistake.
        images: `(B, C, H, W)` in [0, 1].

    Returns:
        The names of all batch normalisations that were used, each with that of the convolution
        that can take it in: one whose output goes there and nowhere else, both being used once.
        Where there is none the name is empty.
    """
    norms = {name: module for name, module in probe.named_modules() if _is_batch_norm(module)}
    generator = torch.Generator(images.device).manual_seed(0)
    for norm in norms.values():
        _randomise(norm, generator)
    produced: dict[Node, str] = {}
    consumed: list[tuple[str, Node | None]] = []
    calls: Counter[str] = Counter()
    hooks = []
    for name, module in probe.named_modules():
        if type(module) is nn.Conv2d:

            def left(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                if output.grad_fn is not None:
                    produced[output.grad_fn] = name
                calls[name] += 1

            hooks.append(module.register_forward_hook(left))
        elif name in norms:

            def came(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                consumed.append((name, inputs[0].grad_fn))
                calls[name] += 1

            hooks.append(module.register_forward_pre_hook(came))
    with torch.enable_grad():
        logits = probe(images.requires_grad_(True))
    for hook in hooks:
        hook.remove()
    uses = _uses(logits.grad_fn)
    after = {}
    for name, node in consumed:
        convolution = "" if node is None else produced.get(node, "")
        once = node is not None and calls[name] == calls[convolution] == uses[node] == 1
        after[name] = convolution if once else ""
    return after


def _uses(last: Node | None) -> Counter[Node]:
    """Counts, for every node of an autograd graph, how often its result is used."""
    uses: Counter[Node] = Counter()
    waiting = [last] if last is not None else []
    while waiting:
        for before, _ in waiting.pop().next_functions:
            if before is not None:
                uses[before] += 1
                if uses[before] == 1:
                    waiting.append(before)
    return uses


def _is_batch_norm(module: nn.Module) -> bool:
    if type(module) not in _BATCH_NORMS or module.running_mean is None:
        return False
    return type(getattr(module, "drop", None)) in (type(None), nn.Identity)


def _randomise(norm: Any, generator: torch.Generator) -> None:
    """Gives a batch normalisation something to do: a new one changes nothing."""
    norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
    norm.running_var.uniform_(0.5, 1.5, generator=generator)
    if norm.weight is not None:
        norm.weight.uniform_(0.5, 1.5, generator=generator)
        norm.bias.uniform_(-0.5, 0.5, generator=generator)
