"""A cheaper twin of a network for the lifetime of an attack.

An attack runs the same weights forwards and backwards many times and needs gradients of images
only. So what follows from the weights alone is computed once: batch normalisation in eval mode
becomes part of the convolution before it, or else a pass whose backward is one product; under
autocast, weights are cast once and not at every pass; where Winograd's algorithm pays, kernels are
transformed once.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from dynat_ray.acceleration import switch
from dynat_ray.acceleration.bn_fusion import find_fusions
from dynat_ray.acceleration.modes import in_float32
from dynat_ray.acceleration.network_copy import copied
from dynat_ray.acceleration.twin_network import Twin, has_hooks
from dynat_ray.forward_units import counted, not_counting

# Of the check that a twin changes nothing, relative to the length of an image's logits and
# gradient. Gradients jump, by some per cent and in deep networks often, where a ReLU's input is
# next to 0. A wrong twin is far off at nearly all images.
_TOLERANCES = (1e-3, 5e-2)
_CHECKED_IMAGES = 8
_ALIKE_AT_LEAST = 0.5
# Of the check that compiling does not change gradients much, which bf16 rounds by a tenth.
_COMPILED_TOLERANCE = 0.5


def twin_of(model: nn.Module, images: Tensor) -> nn.Module:
    """Returns a network that gives the same logits as `model` has now, for less.

    That is a twin which shares all weights that need no change; it is kept as long as `model` is.
    Where no twin gives the same logits and gradients with respect to images (checked once, on a
    few of them; a warning says what was wrong), where hooks watch the network, or there is nothing
    to gain, it is `model` itself. The twin has no gradients with respect to weights, nor second
    derivatives.

    Args:
        model: A network in eval mode whose parameters are frozen (`modes.frozen`), compiled or
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
    key = (dtype, switch.may_use_cpu_kernels())
    twin = twins.get(key)
    settled = _SETTLED.get(model, set())
    if twin is None or not twin.still_fits(core):
        with not_counting():
            twin = twins[key] = _build(core, images)
            twin.refresh(dtype)
            if core is not model:
                _compile(twin, images)
    elif twin not in settled:
        twin.refresh(dtype)
    settled.add(twin)
    twin.requests += 1
    if twin.network is None:
        return model
    _KNOWN_TWINS.add(twin.network)
    return twin.network


@contextmanager
def settled_weights(model: nn.Module) -> Iterator[None]:
    """Has `twin_of` bring twins of `model` up to date but once.

    Args:
        model: What `twin_of` will get. Nobody changes its weights or statistics meanwhile.
    """
    _SETTLED[model] = set()
    try:
        yield
    finally:
        _SETTLED.pop(model, None)


def forget_twin(model: nn.Module) -> None:
    """Has the next call of `twin_of` make a new twin: what is not a tensor may have changed."""
    _TWINS.pop(model, None)


def twin_status(model: nn.Module) -> str:
    """Returns whether attacks on `model` have run on a twin, in a few words for a run's record.

    Args:
        model: What `twin_of` got.

    Returns:
        `used`; `refused N times: REASON`; `not needed` (nothing follows from its weights
        alone) or `not asked for` (no attack with fixed statistics yet).
    """
    if has_hooks(model):
        return "refused: hooks watch the network"
    twins = list(_TWINS.get(model, {}).values())
    refused = [twin for twin in twins if twin.refusal]
    if refused:
        count = sum(twin.requests for twin in refused)
        return f"refused {count} times: {refused[0].refusal}"
    if not twins:
        return "not asked for"
    return "used" if any(twin.network is not None for twin in twins) else "not needed"


def cpu_kernels_status(device: torch.device) -> str:
    """Returns what is used of the CPU kernels: `auto`, `off`, or `unavailable: REASON`.

    Args:
        device: Where networks are.
    """
    if switch.cpu_kernels_choice() == "off":
        return "off"
    kernels = _cpu_kernels()
    if kernels is None:
        return "unavailable: this installation comes without them"
    if device.type != "cpu":
        return f"unavailable: networks are on {device.type}"
    reason = kernels.why_unavailable()
    return f"unavailable: {reason.splitlines()[0]}" if reason else "auto"


def _cpu_kernels() -> ModuleType | None:
    if not switch.may_use_cpu_kernels():
        return None
    from dynat_ray.acceleration import cpu  # the folder may be gone

    return cpu


def _build(model: nn.Module, images: Tensor) -> Twin:
    kernels = _cpu_kernels()
    try:
        fusions = _checked_fusions(model, images[:_CHECKED_IMAGES].detach(), kernels)
    except _Refused as refusal:
        warnings.warn(
            f"attacks run on the network itself, not on a faster twin: {refusal}", stacklevel=3
        )
        return Twin(model, None, kernels, refusal=str(refusal))
    return Twin(model, fusions, kernels)


class _Refused(Exception):
    """No twin gives what the network gives."""


def _checked_fusions(
    model: nn.Module, images: Tensor, kernels: ModuleType | None
) -> dict[str, str]:
    """Finds out, on a copy, which batch normalisations can go, and into which convolutions.

    Returns:
        Names of batch normalisations with that of the convolution before each, empty where there
        is none.

    Raises:
        _Refused: No twin gives the copy's logits and gradients.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        in_float32(images.device),
    ):
        try:
            probe = copied(model)
            fusions = find_fusions(probe, images)
            expected = _logits_and_gradient(probe, images)
            for candidate in (fusions, dict.fromkeys(fusions, "")):
                twin = Twin(probe, candidate, kernels)
                twin.refresh(None)
                network = twin.network
                if network is None or _alike(_logits_and_gradient(network, images), expected):
                    return candidate
        # Networks of others may refuse copies, or anything else, each in its own way.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise _Refused(f"{type(error).__name__}: {reason}") from error
    raise _Refused("its logits or gradients are others")


def _compile(twin: Twin, images: Tensor) -> None:
    """Compiles a twin, unless that changes its gradients on `images` `(B, C, H, W)`.

    It has: PyTorch 2.11 made all of them 0 without a word, and attacks that do nothing teach no
    robustness.
    """
    if twin.network is None:
        return
    compiled: nn.Module = torch.compile(twin.network, dynamic=False)  # type: ignore[assignment]
    (_, expected), (_, gradient) = (
        _logits_and_gradient(network, images) for network in (twin.network, compiled)
    )
    if bool((gradient - expected).norm() <= _COMPILED_TOLERANCE * expected.norm()):
        twin.network = counted(compiled)
        return
    warnings.warn(
        "torch.compile changes the gradients of this network; its attacks run uncompiled",
        stacklevel=3,
    )


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


# By precision, and whether CPU kernels may be used.
_TWINS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[torch.dtype | None, bool], Twin]] = (
    weakref.WeakKeyDictionary()
)
# Twins that are up to date, of networks whose weights don't change for a while.
_SETTLED: weakref.WeakKeyDictionary[nn.Module, set[Twin]] = weakref.WeakKeyDictionary()
_KNOWN_TWINS: weakref.WeakSet[nn.Module] = weakref.WeakSet()
