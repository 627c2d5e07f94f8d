"""Adversarial training of image classifiers on Ray, with budgets and weights per sample.

Importing the package registers its architectures in timm.
"""

from __future__ import annotations

from dynat_ray.models import load_model

__version__ = "0.1.0"

__all__ = ["__version__", "load_model"]
