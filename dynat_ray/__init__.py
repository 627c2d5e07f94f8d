"""Adversarial training of image classifiers on Ray, with budgets and weights per sample.

Importing the package registers its architectures in timm, and what installed plugins add. PyTorch
and timm, which take seconds, are imported when something of ours first needs them: Ray Train's
controller, which every training waits for, only hands our objects on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dynat_ray import interrupt
from dynat_ray.import_after import import_after
from dynat_ray.plugins import load_plugins

if TYPE_CHECKING:
    from dynat_ray import data
    from dynat_ray.models import load_model

__version__ = "0.1.0"

__all__ = ["__version__", "data", "load_model"]


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module("dynat_ray.data")
    if name == "load_model":
        return import_module("dynat_ray.models").load_model
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if interrupt.is_being_started(__name__):
    # PyTorch and the rest take seconds to import, in which a signal may come.
    interrupt.listen()
import_after("timm", "dynat_ray.models")
load_plugins()
