"""The attacks of evaluation, by the names that papers give them; plain PyTorch."""

from __future__ import annotations

from dynat_ray.attacks.registry import Attack, get_attacks, register_attack
from dynat_ray.attacks.stages import Setting

__all__ = ["Attack", "Setting", "get_attacks", "register_attack"]
