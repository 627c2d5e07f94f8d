"""What a device is given to compute with: a precision that it has."""

from __future__ import annotations

import platform
from typing import Literal

import torch

Precision = Literal["float32", "bf16"]


def usable_precision(wanted: Precision, device: torch.device) -> Precision:
    """Returns `wanted`, or `float32` where `bf16` would be slower (some ten times on a CPU).

    Args:
        wanted: `train.precision`.
        device: Where it is to be computed.
    """
    return "bf16" if wanted == "bf16" and _multiplies_bf16(device) else "float32"


def autocast(wanted: Precision, device: torch.device) -> torch.autocast:
    """Returns the context in which a device computes in the usable one."""
    enabled = usable_precision(wanted, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _multiplies_bf16(device: torch.device) -> bool:
    """Returns whether the device has instructions for products of bfloat16 numbers."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN also takes bfloat16 on processors that have to convert it.
        return bool(torch.cpu._is_avx512_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
