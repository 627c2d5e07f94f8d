"""Adversarial training of image classifiers on Ray, with budgets and weights per sample.

Importing the package registers its architectures in timm.
"""

from __future__ import annotations

from dynat_ray import data
from dynat_ray.models import load_model
from dynat_ray.plugins import load_plugins

__version__ = "0.1.0"

__all__ = ["__version__", "data", "load_model"]

load_plugins()
