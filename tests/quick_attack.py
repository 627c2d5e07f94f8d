"""Attacks that take a few passes instead of thousands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from dynat_ray import attack_names
from dynat_ray.attacks import registry
from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.attacks.registry import Attack
from dynat_ray.attacks.square import Square

QUICK, WHOLE = "quick-sampled", "quick"


@contextmanager
def quick_attacks() -> Iterator[None]:
    """Has `QUICK`, whose last two stages see a sample, and `WHOLE`, which is the same unsampled."""
    stages = (
        GradientAttack("fgsm", steps=1),
        GradientAttack("pgd-3", steps=3),
        GradientAttack("cw-20", steps=20, objective="cw"),
        Square(queries=40),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FIXED, QUICK, Attack(QUICK, stages, costly=True, sampled=2))
        patch.setitem(registry._FIXED, WHOLE, Attack(WHOLE, stages, costly=True))
        patch.setattr(attack_names, "_NAMES", {*attack_names._NAMES, QUICK, WHOLE})
        yield


@contextmanager
def iterations(count: int) -> Iterator[None]:
    """Has APGD and FAB make so many of the 100 iterations that `test_autoattack` holds them to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dynat_ray.attacks.apgd.ITERATIONS", count)
        patch.setattr("dynat_ray.attacks.fab._ITERATIONS", count)
        yield


@contextmanager
def square_queries(count: int) -> Iterator[None]:
    """Has Square make so many queries within `autoattack`, of the 5,000 that it else makes."""
    whole = registry.get_attack("autoattack")
    stages = tuple(
        replace(stage, queries=count) if isinstance(stage, Square) else stage
        for stage in whole.stages
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FIXED, whole.name, replace(whole, stages=stages))
        yield
