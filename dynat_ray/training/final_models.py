"""The two models that a run leaves behind."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.errors import UserError
from dynat_ray.models import Classifier, load_model, save_model
from dynat_ray.storage.json_file import read_json
from dynat_ray.training.state import Progress
from dynat_ray.training.step import Networks

_TRAINED = "trained.json"


def save_models(
    run_folder: Path, model: Classifier, networks: Networks, progress: Progress
) -> None:
    """Writes `model/` (best on the validation split) and `model_last/`, then that both are there.

    Without a validation split the last model is also the best.

    Args:
        run_folder: The run's folder.
        model: For the architecture; its weights stay as they are.
        networks: Holds the last weights, averaged where there is an average.
        progress: Epochs done, and the best weights.
    """
    chosen = copy.deepcopy(model)
    chosen.load_state_dict(networks.evaluated.state_dict())
    save_model(chosen, run_folder / "model_last")
    if progress.best.weights:
        chosen.load_state_dict(progress.best.weights)
    save_model(chosen, run_folder / "model")
    atomic_write_text(run_folder / _TRAINED, json.dumps({"epochs": progress.epoch}) + "\n")


def trained_epochs(run_folder: Path) -> int:
    """Returns how many epochs the saved models were trained for; 0 if they aren't both whole."""
    try:
        for name in ("model", "model_last"):
            load_model(run_folder / name)
    except UserError:
        return 0
    return recorded_epochs(run_folder)


def recorded_epochs(run_folder: Path) -> int:
    """Returns how many epochs the run was trained for when it saved its models; 0: it did not."""
    epochs = read_json(run_folder / _TRAINED).get("epochs")
    return epochs if isinstance(epochs, int) else 0
