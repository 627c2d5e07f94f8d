"""The network of a twin, and how its weights follow from those of the network it stands for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.acceleration.fixed_batch_norm import FixedBatchNorm, scale_of
from dynat_ray.acceleration.network_copy import copied

# Exact types: a subclass may do something else with its weights.
_WEIGHTED = (nn.Conv2d, nn.Linear)


class Twin:
    """A copy of a network that shares all tensors but those which change, or why there is none.

    Args:
        model: The network.
        fusions: Names of batch normalisations, each with that of the convolution before it that
            takes it in; empty if it has to stay on its own. None: there is no copy.
        kernels: The face of the CPU kernels; None: without.
        refusal: Why there is no copy though something may be gained.

    Attributes:
        network: The copy, None where there is none; its weights are those of the last `refresh`.
        refusal: As given.
        requests: How often it was asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        fusions: dict[str, str] | None,
        kernels: ModuleType | None,
        *,
        refusal: str = "",
    ) -> None:
        self._shared = _tensors(model)
        self.network: nn.Module | None = None
        self.refusal = refusal
        self.requests = 0
        self._weights: list[_Weights | FixedBatchNorm] = []
        if fusions is None:
            return
        network = copied(model, self._shared)
        originals, modules = dict(model.named_modules()), dict(network.named_modules())
        norm_after = {convolution: norm for norm, convolution in fusions.items() if convolution}
        replaced: dict[str, nn.Module] = {}
        for name, module in originals.items():
            if name and type(module) in _WEIGHTED:
                fixed = kernels.fixed_convolution(modules[name]) if kernels else None
                if fixed is not None:
                    replaced[name] = fixed
                norm = originals[norm_after[name]] if name in norm_after else None
                self._weights.append(_Weights(module, modules[name], norm, fixed))
        for name, convolution in fusions.items():
            replaced[name] = norm = FixedBatchNorm(
                originals[name],
                fused=bool(convolution),
                fused_relu=kernels.fused_norm_relu if kernels else None,
            )
            self._weights.append(norm)
        for name, own in replaced.items():
            parent, _, attribute = name.rpartition(".")
            setattr(modules[parent], attribute, own)
        if self._weights:
            self.network = network

    def still_fits(self, model: nn.Module) -> bool:
        """Returns whether the model's tensors are the ones that the copy shares."""
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
    """A convolution or linear layer, its copy, and the batch normalisation fused into it.

    Args:
        original: The layer.
        copied: Its copy.
        norm: The batch normalisation after it, if it is fused.
        fixed: What stands in the copy's place, if something does.
    """

    def __init__(
        self, original: nn.Module, copied: nn.Module, norm: nn.Module | None, fixed: Any
    ) -> None:
        self._original: Any = original
        self._twin: Any = copied if fixed is None else fixed
        self._norm: Any = norm
        self._fixed = fixed

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
        if self._fixed is not None:
            self._fixed.refresh(weight)

    def _take(self, name: str, value: Tensor, dtype: torch.dtype | None) -> None:
        parameters, now = self._twin._parameters, getattr(self._twin, name)
        original, dtype = getattr(self._original, name), dtype or value.dtype
        if value is original and dtype == value.dtype:
            parameters[name] = value
        elif now is None or now is original or (now.dtype, now.device) != (dtype, value.device):
            parameters[name] = nn.Parameter(value.to(dtype, copy=True), requires_grad=False)
        else:
            now.copy_(value)  # in place: compiled graphs keep their inputs


def has_hooks(model: nn.Module) -> bool:
    """Returns whether somebody watches or changes what a network computes."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in model.modules()
    )


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
