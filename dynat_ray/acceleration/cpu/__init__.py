"""C++ kernels for networks on a CPU: this file is all that others may use of the folder.

Everything here gives what PyTorch gives, up to rounding, and says so where it can't.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn

from dynat_ray.acceleration.cpu import native_code, normalised_relu
from dynat_ray.acceleration.cpu.winograd import flops  # noqa: F401  registers formulas
from dynat_ray.acceleration.cpu.winograd.convolution import WinogradConvolution
from dynat_ray.acceleration.cpu.winograd.gradients import WinogradGradients

__all__ = [
    "available",
    "fast_gradients",
    "fixed_convolution",
    "fused_norm_relu",
    "why_unavailable",
]


def available() -> bool:
    """Returns whether the kernels run on this machine, as far as is known before they are used.

    Only then are they compiled, which takes some twenty seconds.
    """
    return why_unavailable() is None


def why_unavailable() -> str | None:
    """Returns why the kernels don't run on this machine; None: they do, as in `available`."""
    return native_code.why_unavailable()


def fixed_convolution(convolution: nn.Module) -> WinogradConvolution | None:
    """Returns what takes the place of a convolution whose weights are fixed.

    Args:
        convolution: Its parameters are shared; `refresh` of the result has to be called before the
            first use, and whenever they have changed.

    Returns:
        The module, which has gradients with respect to its input alone; None where it would not be
        faster, or is no convolution.
    """
    if not WinogradConvolution.can_take(convolution):
        return None
    return WinogradConvolution(convolution)


def fused_norm_relu(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor | None:
    """Returns `relu(features * scale + shift)`, in one pass over memory each way.

    Args:
        features: `(B, C, H, W)`; gradients are with respect to them alone.
        scale: `(C,)`, float32.
        shift: The same.

    Returns:
        The same shape; None where the kernel does not take such features.
    """
    if not normalised_relu.suits(features):
        return None
    return normalised_relu.normalised_relu(features, scale, shift)


def fast_gradients() -> AbstractContextManager[object]:
    """Returns a context in which a network that trains takes gradients by Winograd's algorithm.

    For loss and backward pass; second derivatives fail in it. Where nothing is gained it does
    nothing.
    """
    return WinogradGradients() if available() else nullcontext()
