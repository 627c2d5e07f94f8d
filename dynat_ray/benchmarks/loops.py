"""All loops that are compared, by name."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from dynat_ray.acceleration.precision import Precision
from dynat_ray.benchmarks.our_loop import as_step, our_stepper
from dynat_ray.benchmarks.reference_loops import (
    AttackSettings,
    Step,
    art_step,
    robust_overfitting_step,
    torchattacks_step,
)
from dynat_ray.models import Classifier

_REFERENCES = {
    name: loop
    for name, loop, package in (
        ("robust_overfitting", robust_overfitting_step, "torch"),
        ("torchattacks", torchattacks_step, "torchattacks"),
        ("art", art_step, "art"),
    )
    if find_spec(package)
}
PRECISIONS: dict[str, Precision] = {"ours": "bf16", "ours_float32": "float32"}
LOOPS = (*PRECISIONS, *_REFERENCES)


def make_step(
    name: str,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    attack: AttackSettings,
    *,
    compiled: bool,
) -> Step:
    """Returns the loop of a name from `LOOPS`; `compiled` is for ours alone."""
    if name in PRECISIONS:
        stepper = our_stepper(model, optimizer, attack, PRECISIONS[name], compiled=compiled)
        return as_step(stepper)
    return _REFERENCES[name](model, optimizer, attack)
