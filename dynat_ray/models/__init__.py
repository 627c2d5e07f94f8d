"""Networks: architectures registered in timm, normalisation inside, saving and loading."""

from __future__ import annotations

from dynat_ray.models import (  # noqa: F401  (they register)
    convolutional_stems,
    deep_defense_networks,
    residual,
)
from dynat_ray.models.build import build_model
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.freezing import freeze
from dynat_ray.models.model_folder import load_model, save_model
from dynat_ray.models.starting import initialise_from

__all__ = ["Classifier", "build_model", "freeze", "initialise_from", "load_model", "save_model"]
