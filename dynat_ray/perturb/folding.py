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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.perturb.float32 import in_float32
from dynat_ray.perturb.foldable import find_foldable
from dynat_ray.perturb.winograd import WinogradConvolution

# Exact types: a subclass may do something else with its weights.
_WEIGHTED = (nn.Conv2d, nn.Linear)
# Of the check that folding changes nothing, relative to the length of logits and gradients. Of
# these single ones jump where a ReLU's input is next to 0.
_TOLERANCES = (1e-3, 1e-2)
# Of the check that compiling does not change gradients much, which bf16 rounds by a tenth.
_COMPILED_TOLERANCE = 0.5


def folded(model: nn.Module, images: Tensor) -> nn.Module:
    """Returns a network that gives the same logits as `model` has now, for less.

    That is a twin which shares all weights that need no change; it is kept as long as `model` is.
    Where no twin gives the same logits and gradients with respect to images (checked once, on two
    of them), where hooks watch the network, or there is nothing to gain, it is `model` itself. The
    twin has no gradients with respect to weights, nor second derivatives.

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
    twin = twins.get(dtype)
    if twin is None or not twin.still_fits(core):
        after = _convolutions_before(core, images[:2].detach())
        twin = twins[dtype] = _Twin(core, after, compiled=core is not model)
        if core is not model:
            twin.refreshed(dtype)
            twin.compile(images)
    network = twin.refreshed(dtype)
    return model if network is None else network


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
    """

    def __init__(self, model: nn.Module, after: dict[str, str] | None, compiled: bool) -> None:
        self._shared = _tensors(model)
        self._network: nn.Module | None = None
        self._weights: list[_Weights | _Normalised] = []
        if after is None:
            return
        network = copy.deepcopy(model, {id(tensor): tensor for tensor in self._shared})
        originals, modules = dict(model.named_modules()), dict(network.named_modules())
        folding = {convolution: norm for norm, convolution in after.items() if convolution}
        replaced: dict[str, nn.Module] = {}
        for name, module in originals.items():
            if name and type(module) in _WEIGHTED:
                twin = modules[name]
                if WinogradConvolution.can_take(module) and not compiled:
                    twin = replaced[name] = WinogradConvolution(twin)
                norm = originals[folding[name]] if name in folding else None
                self._weights.append(_Weights(module, twin, norm))
        for name, convolution in after.items():
            norm = originals[name]
            if convolution:
                replaced[name] = _activation(norm)
            else:
                replaced[name] = normalised = _Normalised(norm)
                self._weights.append(normalised)
        for name, own in replaced.items():
            parent, _, attribute = name.rpartition(".")
            setattr(modules[parent], attribute, own)
        if after or self._weights:
            self._network = network
            _KNOWN_TWINS.add(network)

    def compile(self, images: Tensor) -> None:
        """Compiles the twin, unless that changes its gradients on `images` `(B, C, H, W)`.

        It has: PyTorch 2.11 made all of them 0 without a word, and attacks that do nothing teach
        no robustness.
        """
        if self._network is None:
            return
        compiled: nn.Module = torch.compile(self._network, dynamic=False)  # type: ignore[assignment]
        (_, expected), (_, gradient) = (
            _logits_and_gradient(network, images) for network in (self._network, compiled)
        )
        if bool((gradient - expected).norm() <= _COMPILED_TOLERANCE * expected.norm()):
            self._network = compiled
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
    def refreshed(self, dtype: torch.dtype | None) -> nn.Module | None:
        """Brings the weights up to date, in `dtype` (None: their own), and returns the twin."""
        for weights in self._weights:
            weights.refresh(dtype)
        return self._network


class _Weights:
    """A convolution or linear layer, its twin, and the batch normalisation folded into it."""

    def __init__(self, original: nn.Module, twin: nn.Module, norm: nn.Module | None) -> None:
        self._original: Any = original
        self._twin: Any = twin
        self._norm: Any = norm

    def refresh(self, dtype: torch.dtype | None) -> None:
        weight, bias, norm = self._original.weight, self._original.bias, self._norm
        if norm is not None:
            scale = _scale(norm)
            weight = weight * scale.view(-1, 1, 1, 1)
            bias = ((0 if bias is None else bias) - norm.running_mean) * scale
            bias = bias if norm.bias is None else bias + norm.bias
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                self._take(name, value, dtype)
        if isinstance(self._twin, WinogradConvolution):
            self._twin.refresh()

    def _take(self, name: str, value: Tensor, dtype: torch.dtype | None) -> None:
        parameters, now = self._twin._parameters, getattr(self._twin, name)
        original, dtype = getattr(self._original, name), dtype or value.dtype
        if value is original and dtype == value.dtype:
            parameters[name] = value
        elif now is None or now is original or (now.dtype, now.device) != (dtype, value.device):
            parameters[name] = nn.Parameter(value.to(dtype, copy=True), requires_grad=False)
        else:
            now.copy_(value)  # in place: compiled graphs keep their inputs


class _Normalised(nn.Module):
    """Batch normalisation in eval mode and its activation, with a short backward pass."""

    scale: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self._norm = [norm]  # in a list: no part of this module
        self.activation = _activation(norm)
        self.register_buffer("scale", _scale(norm).detach().clone())

    def refresh(self, dtype: torch.dtype | None) -> None:
        """Takes over what the batch normalisation multiplies by now."""
        scale = _scale(self._norm[0])
        if self.scale.device == scale.device:
            self.scale.copy_(scale)  # in place: compiled graphs keep their inputs
        else:
            self.scale = scale.clone()

    def forward(self, features: Tensor) -> Tensor:
        norm: Any = self._norm[0]
        normalised = _Normalise.apply(
            features,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            norm.eps,
            self.scale,
        )
        activated: Tensor = self.activation(normalised)
        return activated


class _Normalise(torch.autograd.Function):
    """Batch normalisation with fixed statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        scale: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(scale)
        return F.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        gradient = gradients[0] * scale.to(gradients[0].dtype).view(1, -1, 1, 1)
        return gradient, None, None, None, None, None, None


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
                twin = _Twin(probe, candidate, compiled=False).refreshed(None)
                if twin is None or _alike(_logits_and_gradient(twin, images), expected):
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
    return all(
        bool((own - theirs).norm() <= tolerance * theirs.norm().clamp(min=1e-6))
        for own, theirs, tolerance in zip(found, expected, _TOLERANCES, strict=True)
    )


def _scale(norm: Any) -> Tensor:
    scale: Tensor = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight


def _activation(norm: nn.Module) -> nn.Module:
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else activation


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
_KNOWN_TWINS: weakref.WeakSet[nn.Module] = weakref.WeakSet()
