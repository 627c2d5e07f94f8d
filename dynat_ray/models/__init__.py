"""Networks: architectures registered in timm, normalisation inside, saving and loading."""

from __future__ import annotations

from dynat_ray.models import deep_defense_networks, residual  # noqa: F401  (they register)
from dynat_ray.models.build import build_model
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.model_folder import initialise_from, load_model, save_model

__all__ = ["Classifier", "build_model", "initialise_from", "load_model", "save_model"]
