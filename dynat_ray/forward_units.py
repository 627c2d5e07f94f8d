"""What training computes, in the unit by which methods are compared: a forward pass of one image.

Each convolution takes as much again for a gradient with respect to what went in, and once more for
one with respect to its weights. So a gradient with respect to images costs one unit, and one with
respect to weights two, since it comes through all activations.
`Classifier` reports its passes here, whoever asks for them, so that no method can forget to; a
graph that is compiled or captured, which runs without Python, is counted where it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Of learning from an image: a forward pass, and a gradient with respect to weights.
LEARNING = 3


@dataclass
class Passes:
    """Passes through classifiers, each summed over its images.

    Attributes:
        forward: Forward passes.
        image_gradients: Gradients with respect to images that were asked for: an attack's steps.
        backward: What the backward pass of a loss computes, in units: two for a gradient with
            respect to weights, one where weights are frozen and it passes through to images, two
            more where an image gradient is itself differentiated.
    """

    forward: int = 0
    image_gradients: int = 0
    backward: int = 0

    @property
    def units(self) -> int:
        """All of them, in forward passes of one image."""
        return self.forward + self.image_gradients + self.backward


class _Counting:
    """Who counts now, in this process: autograd calls its hooks on threads of its own."""

    passes: Passes | None = None
    backward = False


_now = _Counting()


@contextmanager
def counting() -> Iterator[Passes]:
    """Counts what classifiers compute while the context lasts."""
    before, passes = _now.passes, Passes()
    _now.passes = passes
    try:
        yield passes
    finally:
        _now.passes = before


@contextmanager
def not_counting() -> Iterator[None]:
    """Leaves out what is no part of the training: checks, and passes that are only recorded."""
    before, _now.passes = _now.passes, None
    try:
        yield
    finally:
        _now.passes = before


@contextmanager
def backward_pass() -> Iterator[None]:
    """Says that a loss's gradient with respect to weights is being computed."""
    _now.backward = True
    try:
        yield
    finally:
        _now.backward = False


def add_image_gradients(images: Tensor) -> None:
    """Counts a forward pass and a gradient of `images` `(B, ...)` that ran without Python."""
    if _now.passes is not None:
        _now.passes.forward += len(images)
        _now.passes.image_gradients += len(images)


def entering(images: Tensor, network: nn.Module) -> Tensor:
    """Counts a forward pass, and the gradient with respect to these images if there will be one.

    Args:
        images: What goes into the network, `(B, C, H, W)`.
        network: The network.

    Returns:
        The same images, as this pass alone sees them.
    """
    if torch.compiler.is_compiling() or (passes := _now.passes) is None:
        return images
    count = len(images)
    passes.forward += count
    if not (images.requires_grad and torch.is_grad_enabled()):
        return images
    seen, learns = images.view_as(images), _learns(network)
    seen.register_hook(lambda gradient: _see_image_gradient(passes, count, gradient, learns))
    return seen


def leaving(output: Tensor, network: nn.Module, count: int) -> Tensor:
    """Counts the gradient with respect to weights if there will be one.

    Args:
        output: What comes out of the network: logits, or features on the way to them.
        network: The network.
        count: Images that went in.

    Returns:
        The output.
    """
    if torch.compiler.is_compiling() or (passes := _now.passes) is None:
        return output
    if output.requires_grad and _learns(network):

        def see(gradient: Tensor) -> None:
            if _now.passes is passes and _now.backward:
                passes.backward += 2 * count

        output.register_hook(see)
    return output


def counted(network: nn.Module) -> nn.Module:
    """Returns a network that `torch.compile` has made; its passes are counted from now on.

    What is compiled runs without the Python of the network in it.
    """
    run: Callable[..., Tensor] = network.forward

    def forward(images: Tensor, *others: object) -> Tensor:
        return leaving(run(entering(images, network), *others), network, len(images))

    network.forward = forward
    return network


def _learns(network: nn.Module) -> bool:
    return any(each.requires_grad for each in network.parameters())


def _see_image_gradient(passes: Passes, count: int, gradient: Tensor, learns: bool) -> None:
    if _now.passes is not passes:
        return
    if _now.backward:
        # On its way to the weights it has come through all activations anyway.
        passes.backward += 0 if learns else count
        return
    passes.image_gradients += count
    if gradient.requires_grad:
        gradient.register_hook(lambda _: _see_second_gradient(passes, count))


def _see_second_gradient(passes: Passes, count: int) -> None:
    if _now.passes is passes:
        passes.backward += 2 * count
