"""The attacks of evaluation, by the names that papers give them; plain PyTorch."""

from __future__ import annotations

from dynat_ray.attacks.registry import get_attacks

__all__ = ["get_attacks"]
