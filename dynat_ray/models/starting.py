"""Where a model's first weights come from: `model.init_from`."""

from __future__ import annotations

from pathlib import Path

from dynat_ray.errors import UserError
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.config_json import CONFIG_FILE, ModelDescription, read_description
from dynat_ray.models.importing import Checkpoint, adopt, is_checkpoint_file, read_checkpoint
from dynat_ray.models.label_names import first_difference
from dynat_ray.models.model_folder import find_model_folder, load_model
from dynat_ray.user_path import user_path


def description_of(source: str) -> ModelDescription:
    """Returns what a model folder, a run folder or a model of the hub says of its network.

    Raises:
        UserError: There is no such model, or it is a file of weights, which says nothing.
    """
    return read_description(find_model_folder(source) / CONFIG_FILE)


def initialise_from(model: Classifier, source: str) -> list[str]:
    """Puts weights that were trained before, and their normalisation, into `model`.

    The classifier stays as it is where theirs is for other classes.

    Args:
        model: In training mode or not, as it stays.
        source: What `load_model` takes, or a file of weights as `read_checkpoint` does.

    Returns:
        What a user should know of it, a sentence each.

    Raises:
        UserError: There is no such model, or it is of another architecture.
    """
    given_as = f"model.init_from {source}"
    if is_checkpoint_file(source) and not Path(user_path(source)).is_dir():
        return adopt(model, read_checkpoint(user_path(source)), given_as)
    saved = load_model(source)
    if saved.name != model.name or saved.channels != model.channels:
        raise UserError(
            f"{given_as} holds a '{saved.name}' for {saved.channels} channel(s); model.name is "
            f"'{model.name}' and the images have {model.channels}"
        )
    weights = Checkpoint(
        saved.backbone.state_dict(),
        tuple(saved.mean.flatten().tolist()),
        tuple(saved.std.flatten().tolist()),
    )
    head = {name: model.backbone.state_dict()[name].clone() for name in model.head_names()}
    notes = adopt(model, weights, given_as)
    same_number = saved.num_classes == model.num_classes
    if same_number and (other := first_difference(saved.label_names, model.label_names)):
        model.backbone.load_state_dict(head, strict=False)
        notes.append(
            f"{given_as}: its class {other.place} is '{other.first}', and here it is "
            f"'{other.second}'; the classifier starts anew"
        )
    if saved.arguments != model.arguments:
        notes.append(f"{given_as} was built with {saved.arguments}; this one has {model.arguments}")
    return notes
