"""Gradients of images by CUDA graphs, so that the host starts all kernels of a pass by one call.

A pass of a small batch keeps a GPU busy for less time than the host takes to start its hundred
kernels one by one. In an attack the same pass runs again and again, on other images: it is
captured as a CUDA graph when its shape comes for the second time and replayed from then on.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.twin_network import has_hooks
from dynat_ray.forward_units import add_image_gradients, not_counting

# (logits (B, K), labels (B,), clean log-probabilities (B, K) or None) -> losses (B,)
Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Every graph is a shape; one that comes later is computed without.
_MOST_GRAPHS = 64


class InputGradients:
    """Gradients of an objective with respect to images, for one attack on one network.

    Args:
        network: Its parameters are frozen.
        objective: What is differentiated.
        capture: Capture graphs on a GPU, but for networks with hooks: a replay would not do what
            they do besides. Not for an objective that does anything but compute.
    """

    def __init__(self, network: nn.Module, objective: Objective, *, capture: bool) -> None:
        self._network = network
        self._objective = objective
        self._graphs: _Graphs | None = None
        if capture and not has_hooks(network):
            self._graphs = _GRAPHS.setdefault(network, _Graphs())
            self._graphs.forget_if_moved(network)

    def __call__(
        self, images: Tensor, labels: Tensor, clean_log_probs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradient `(B, C, H, W)`, valid until the next call, and logits `(B, K)`.

        Args:
            images: Where, `(B, C, H, W)` in [0, 1].
            labels: True classes, int64 `(B,)`.
            clean_log_probs: Log-probabilities `(B, K)` of the clean images, for `kl`.
        """
        inputs = (images, labels, clean_log_probs)
        graph = None
        if self._graphs is not None and _can_capture(images):
            graph = self._graphs.find(self._network, self._objective, inputs)
        if graph is None:
            return _compute(self._network, self._objective, *inputs)
        add_image_gradients(images)
        return graph.replay(inputs)


_Inputs = tuple[Tensor, Tensor, Tensor | None]


class _Graphs:
    """The graphs captured of a network, by what its kernels depend on."""

    def __init__(self) -> None:
        self._found: dict[Any, _Graph | None] = {}
        self._impossible = False
        self._addresses: list[int] = []

    def forget_if_moved(self, network: nn.Module) -> None:
        """Forgets all once weights lie elsewhere: captured kernels know where they were."""
        addresses = [each.data_ptr() for each in (*network.parameters(), *network.buffers())]
        if addresses != self._addresses:
            self._addresses = addresses
            self._found.clear()

    def find(self, network: nn.Module, objective: Objective, inputs: _Inputs) -> _Graph | None:
        """Returns the graph for such inputs, captured now if they come for the second time."""
        if self._impossible:
            return None
        images, _, clean_log_probs = inputs
        key = (
            objective,
            images.shape,
            images.stride(),
            clean_log_probs is None,
            torch.is_autocast_enabled("cuda"),
            torch.get_autocast_dtype("cuda"),
        )
        if key not in self._found:
            # The first time libraries choose kernels, which can't be captured.
            if len(self._found) < _MOST_GRAPHS:
                self._found[key] = None
            return None
        graph = self._found[key]
        if graph is None:
            try:
                graph = self._found[key] = _Graph(network, objective, inputs)
            except RuntimeError as error:
                # It asks the device something on the way, or memory is short.
                self._impossible = True
                self._found.clear()
                reason = str(error).partition("\n")[0]
                warnings.warn(f"attacks are not captured as CUDA graphs: {reason}", stacklevel=2)
        return graph


class _Graph:
    """A pass that was captured with `inputs`, and the memory that it reads and writes."""

    def __init__(self, network: nn.Module, objective: Objective, inputs: _Inputs) -> None:
        images, labels, clean_log_probs = inputs
        self._images = images.detach().clone()
        self._labels = labels.clone()
        self._clean_log_probs = None if clean_log_probs is None else clean_log_probs.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of the process (NCCL's) may ask the device something meanwhile.
        with (
            not_counting(),
            torch.cuda.graph(
                self._graph, pool=_pool(images.device), capture_error_mode="thread_local"
            ),
        ):
            self._gradient, self._logits = _compute(
                network, objective, self._images, self._labels, self._clean_log_probs
            )

    def replay(self, inputs: _Inputs) -> tuple[Tensor, Tensor]:
        images, labels, clean_log_probs = inputs
        self._images.copy_(images)
        self._labels.copy_(labels)
        if self._clean_log_probs is not None and clean_log_probs is not None:
            self._clean_log_probs.copy_(clean_log_probs)
        self._graph.replay()
        return self._gradient, self._logits.clone()


def _compute(
    network: nn.Module,
    objective: Objective,
    images: Tensor,
    labels: Tensor,
    clean_log_probs: Tensor | None,
) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = network(images).float()
        total = objective(logits, labels, clean_log_probs).sum()
    (gradient,) = torch.autograd.grad(total, images)
    return gradient, logits.detach()


def _can_capture(images: Tensor) -> bool:
    return images.is_cuda


def _pool(device: torch.device) -> Any:
    """Returns the memory that a device's graphs share: no two of them run at once."""
    if device not in _POOLS:
        _POOLS[device] = torch.cuda.graph_pool_handle()
    return _POOLS[device]


_GRAPHS: weakref.WeakKeyDictionary[nn.Module, _Graphs] = weakref.WeakKeyDictionary()
_POOLS: dict[torch.device, Any] = {}
