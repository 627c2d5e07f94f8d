"""The two models that a run leaves behind."""

from __future__ import annotations

import copy
from pathlib import Path

from dynat_ray.models import Classifier, save_model
from dynat_ray.training.state import BestModel
from dynat_ray.training.step import Networks


def save_models(run_folder: Path, model: Classifier, networks: Networks, best: BestModel) -> None:
    """Writes `model/` (best on the validation split) and `model_last/`.

    Without a validation split the last model is also the best.

    Args:
        run_folder: The run's folder.
        model: For the architecture; its weights stay as they are.
        networks: Holds the last weights, averaged where there is an average.
        best: Holds the best weights.
    """
    chosen = copy.deepcopy(model)
    chosen.load_state_dict(networks.evaluated.state_dict())
    save_model(chosen, run_folder / "model_last")
    if best.weights:
        chosen.load_state_dict(best.weights)
    save_model(chosen, run_folder / "model")
