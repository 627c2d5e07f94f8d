"""Adversarial weight perturbation (Wu, Xia and Wang, "Adversarial weight perturbation helps robust
generalization", NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Parameters with fewer dimensions (biases, normalisation) stay where they are.
_LEAST_DIMENSIONS = 2


@contextmanager
def perturbed_weights(
    network: nn.Module, gamma: float, backward: Callable[[], object]
) -> Iterator[None]:
    """Moves the weights towards a larger loss while the context lasts.

    Each weight tensor moves along its gradient by `gamma` times its own length: the direction of
    the reference code's single ascent step, without its proxy copy.

    Args:
        network: The wrapped network; gradients must be clear, and are clear afterwards.
        gamma: Size of the perturbation, relative to each tensor's norm.
        backward: Adds the gradients of the loss to the parameters (reduced over workers).
    """
    weights: list[Tensor] = [
        parameter
        for parameter in network.parameters()
        if parameter.requires_grad and parameter.dim() >= _LEAST_DIMENSIONS
    ]
    # The extra forward pass must not count twice in the running statistics.
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    backward()
    originals = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
        for weight in weights:
            if weight.grad is not None:
                length = weight.grad.norm().clamp(min=1e-20)
                weight.add_(weight.grad * (gamma * weight.norm() / length))
        for parameter in network.parameters():
            parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, originals)
