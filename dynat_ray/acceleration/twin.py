"""A cheaper twin of a network for the lifetime of an attack.

An attack runs the same weights forwards and backwards many times and needs gradients of images
only. So what follows from the weights alone is computed once: batch normalisation in eval mode
becomes part of the convolution before it, or else a pass whose backward is one product; under
autocast, weights are cast once and not at every pass; where Winograd's algorithm pays, kernels are
transformed once.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.bn_fusion import find_foldable
from dynat_ray.acceleration.cpu.winograd import WinogradConvolution
from dynat_ray.acceleration.fixed_norm import Normalised, scale_of
from dynat_ray.acceleration.modes import in_float32

# Exact types: a subclass may do something else with its weights.
_WEIGHTED = (nn.Conv2d, nn.Linear)
# Of the check that folding changes nothing, relative to the length of an image's logits and
# gradient. Gradients jump, by some per cent and in deep networks often, where a ReLU's input is
# next to 0. A wrong twin is far off at nearly all images.
_TOLERANCES = (1e-3, 5e-2)
_CHECKED_IMAGES = 8
_ALIKE_AT_LEAST = 0.5
# Of the check that compiling does not change gradients much, which bf16 rounds by a tenth.
_COMPILED_TOLERANCE = 0.5


def folded(model: nn.Module, images: Tensor) -> nn.Module:
    """Returns a network that gives the same logits as `model` has now, for less.

    That is a twin which shares all weights that need no change; it is kept as long as `model` is.
    Where no twin gives the same logits and gradients with respect to images (checked once, on a
    few of them), where hooks watch the network, or there is nothing to gain, it is `model` itself.
    The twin has no gradients with respect to weights, nor second derivatives.

    Args:
        model: A network in eval mode whose parameters are frozen (`perturb.frozen`), compiled or
            not; a compiled one gets a compiled twin, unless the compiler gets its gradients wrong.
        images: Some of those it will get, `(B, C, H, W)` in [0, 1].
    """
    if model in _KNOWN_TWINS or has_hooks(model):
        return model
    core = getattr(model, "_orig_mod", model)
    device = images.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    # One for each precision, so that none has to move its weights when training and validation
    # take turns.
    twins = _TWINS.setdefault(model, {})
    compiled = core is not model
    twin = twins.get(dtype)
    settled = _SETTLED.get(model, set())
    if twin is None or not twin.still_fits(core):
        after = _convolutions_before(core, images[:_CHECKED_IMAGES].detach())
        twin = twins[dtype] = _Twin(core, after, compiled)
        twin.refresh(dtype)
        if compiled:
            twin.compile(images)
    elif twin not in settled:
        twin.refresh(dtype)
    settled.add(twin)
    return model if twin.network is None else twin.network


@contextmanager
def settled_weights(model: nn.Module) -> Iterator[None]:
    """Has `folded` bring twins of `model` up to date but once.

    Args:
        model: What `folded` will get. Nobody changes its weights or statistics meanwhile.
    """
    _SETTLED[model] = set()
    try:
        yield
    finally:
        _SETTLED.pop(model, None)


def forget_twin(model: nn.Module) -> None:
    """Has the next call of `folded` make a new twin: what is not a tensor may have changed."""
    _TWINS.pop(model, None)


class _Twin:
    """A network's twin, and how its weights follow from the network's.

    Args:
        model: The network.
        after: Names of batch normalisations, with that of the convolution before each, empty if
            it has to stay on its own; None: the network can't have a twin.
        compiled: Leave out what a compiler does better, or can't do.

    Attributes:
        network: The twin itself, None where there is none; its weights are those of the last
            `refresh`.
    """

    def __init__(self, model: nn.Module, after: dict[str, str] | None, compiled: bool) -> None:
        self._shared = _tensors(model)
        self.network: nn.Module | None = None
        self._weights: list[_Weights | Normalised] = []
        if after is None:
            return
        network = copy.deepcopy(model, {id(tensor): tensor for tensor in self._shared})
        originals, modules = dict(model.named_modules()), dict(network.named_modules())
        folding = {convolution: norm for norm, convolution in after.items() if convolution}
        replaced: dict[str, nn.Module] = {}
        for name, module in originals.items():
            if name and type(module) in _WEIGHTED:
                twin = modules[name]
                if WinogradConvolution.can_take(module):
                    twin = replaced[name] = WinogradConvolution(twin)
                norm = originals[folding[name]] if name in folding else None
                self._weights.append(_Weights(module, twin, norm))
        for name, convolution in after.items():
            replaced[name] = normalised = Normalised(originals[name], folded=bool(convolution))
            self._weights.append(normalised)
        for name, own in replaced.items():
            parent, _, attribute = name.rpartition(".")
            setattr(modules[parent], attribute, own)
        if after or self._weights:
            self.network = network
            _KNOWN_TWINS.add(network)

    def compile(self, images: Tensor) -> None:
        """Compiles the twin, unless that changes its gradients on `images` `(B, C, H, W)`.

        It has: PyTorch 2.11 made all of them 0 without a word, and attacks that do nothing teach
        no robustness.
        """
        if self.network is None:
            return
        compiled: nn.Module = torch.compile(self.network, dynamic=False)  # type: ignore[assignment]
        (_, expected), (_, gradient) = (
            _logits_and_gradient(network, images) for network in (self.network, compiled)
        )
        if bool((gradient - expected).norm() <= _COMPILED_TOLERANCE * expected.norm()):
            self.network = compiled
            _KNOWN_TWINS.add(compiled)
            return
        warnings.warn(
            "torch.compile changes the gradients of this network; its attacks run uncompiled",
            stacklevel=2,
        )

    def still_fits(self, model: nn.Module) -> bool:
        """Returns whether the model's tensors are the ones that the twin shares."""
        now = _tensors(model)
        return len(now) == len(self._shared) and all(
            one is other for one, other in zip(now, self._shared, strict=True)
        )

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype | None) -> None:
        """Brings the weights up to date, in `dtype` (None: their own)."""
        for weights in self._weights:
            weights.refresh(dtype)


class _Weights:
    """A convolution or linear layer, its twin, and the batch normalisation folded into it."""

    def __init__(self, original: nn.Module, twin: nn.Module, norm: nn.Module | None) -> None:
        self._original: Any = original
        self._twin: Any = twin
        self._norm: Any = norm

    def refresh(self, dtype: torch.dtype | None) -> None:
        weight, bias, norm = self._original.weight, self._original.bias, self._norm
        if norm is not None:
            scale = scale_of(norm)
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = ((0 if bias is None else bias) - norm.running_mean) * scale
            bias = bias if norm.bias is None else bias + norm.bias
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                self._take(name, value, dtype)
        if isinstance(self._twin, WinogradConvolution):
            self._twin.refresh(weight)

    def _take(self, name: str, value: Tensor, dtype: torch.dtype | None) -> None:
        parameters, now = self._twin._parameters, getattr(self._twin, name)
        original, dtype = getattr(self._original, name), dtype or value.dtype
        if value is original and dtype == value.dtype:
            parameters[name] = value
        elif now is None or now is original or (now.dtype, now.device) != (dtype, value.device):
            parameters[name] = nn.Parameter(value.to(dtype, copy=True), requires_grad=False)
        else:
            now.copy_(value)  # in place: compiled graphs keep their inputs


def _convolutions_before(model: nn.Module, images: Tensor) -> dict[str, str] | None:
    """Finds out, on a copy, which batch normalisations can go, and into which convolutions.

    Returns:
        Names of batch normalisations with that of the convolution before each, empty where there
        is none; None if no twin gives the copy's logits.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        in_float32(images.device),
    ):
        try:
            probe = copy.deepcopy(model)
            after = find_foldable(probe, images)
            expected = _logits_and_gradient(probe, images)
            for candidate in (after, dict.fromkeys(after, "")):
                twin = _Twin(probe, candidate, compiled=False)
                twin.refresh(None)
                network = twin.network
                if network is None or _alike(_logits_and_gradient(network, images), expected):
                    return candidate
        # Networks of others may refuse copies, or anything else, each in its own way.
        except Exception:
            return None
    return None


def _logits_and_gradient(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the logits `(B, K)` and the gradient `(B, C, H, W)` of the sum of their squares."""
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = network(images).float()
        (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    return logits.detach(), gradient


def _alike(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    alike = torch.ones(len(found[0]), dtype=torch.bool, device=found[0].device)
    for own, theirs, tolerance in zip(found, expected, _TOLERANCES, strict=True):
        distance = (own - theirs).flatten(1).norm(dim=1)
        alike &= distance <= tolerance * theirs.flatten(1).norm(dim=1).clamp(min=1e-6)
    return bool(alike.float().mean() >= _ALIKE_AT_LEAST)


def has_hooks(model: nn.Module) -> bool:
    """Returns whether somebody watches or changes what a network computes."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in model.modules()
    )


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


_TWINS: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype | None, _Twin]] = (
    weakref.WeakKeyDictionary()
)
# Twins that are up to date, of networks whose weights don't change for a while.
_SETTLED: weakref.WeakKeyDictionary[nn.Module, set[_Twin]] = weakref.WeakKeyDictionary()
_KNOWN_TWINS: weakref.WeakSet[nn.Module] = weakref.WeakSet()
