"""Model folders: `config.json` in timm's format beside `model.safetensors`.

`timm.create_model("local-dir:FOLDER", pretrained=True)` loads the network, which then takes
normalised images; `load_model` puts the normalisation in front of it. The folder may be a
stranger's: reading it touches no network, writes nothing and imports nothing.
"""

from __future__ import annotations

import shlex
import shutil
from contextlib import suppress
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from dynat_ray.atomic_files import atomic_folder, make_folder
from dynat_ray.errors import UserError
from dynat_ray.models.arguments import check_arguments
from dynat_ray.models.backbone import create_backbone, require_known
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.config_json import CONFIG_FILE, ModelDescription, describe, read_description
from dynat_ray.models.hub import folder_of
from dynat_ray.models.importing.checkpoint_file import PICKLE_SUFFIXES, is_checkpoint_file
from dynat_ray.models.sketch import TooLarge, at_most, without_numbers
from dynat_ray.models.weights_file import WEIGHTS_FILE, read_declared, read_weights


def save_model(model: Classifier, folder: Path | str) -> None:
    """Writes a model folder, replacing an older one, of which there is always one or the other.

    Args:
        model: On any device, in any memory format.
        folder: Where to; its parents are made.

    Raises:
        UserError: The folder can't be written.
    """
    folder = Path(folder)
    # Each its own copy: networks may use a tensor twice, which safetensors refuses.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.backbone.state_dict().items()
    }
    try:
        make_folder(folder.parent)
        with atomic_folder(folder) as new:
            (new / CONFIG_FILE).write_text(describe(model), encoding="utf-8")
            safetensors.torch.save_file(weights, new / WEIGHTS_FILE, metadata={"format": "pt"})
            # safetensors lets only its owner read a file.
            shutil.copymode(new / CONFIG_FILE, new / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the model can't be written to {folder}: {error}") from error


def load_model(path: Path | str) -> Classifier:
    """Returns a saved model: takes images `(B, C, H, W)` in [0, 1], float32, returns logits.

    Args:
        path: A model folder, a run folder (its `model/`, the best on the validation split), or
            `hf-hub:OWNER/NAME`.

    Returns:
        The classifier in eval mode, on the CPU, in float32.

    Raises:
        UserError: No such folder, a damaged one, one whose weights are a pickle, or one that asks
            for more than an architecture of timm's registry with arguments of its own.
    """
    folder = find_model_folder(path)
    described = read_description(folder / CONFIG_FILE)
    backbone = _build(described, folder)
    model = Classifier(
        backbone,
        name=described.architecture,
        arguments=described.arguments,  # type: ignore[arg-type]
        num_classes=described.num_classes,
        size=described.size,
        mean=described.mean,
        std=described.std,
    )
    model.label_names = described.label_names
    return model.float().eval()


def _build(described: ModelDescription, folder: Path) -> nn.Module:
    """Returns the network of a folder with its weights.

    It is built without numbers first: nothing is taken from the machine that the weights file does
    not stand for, whatever the arguments say.
    """
    name, file = described.architecture, folder / WEIGHTS_FILE
    given_as = f"model_args of {folder / CONFIG_FILE}"
    require_known(name)
    arguments = check_arguments(name, described.arguments, given_as)
    declared = read_declared(file)
    unfit = f"the weights in {folder} don't fit its architecture '{name}'"

    def build() -> nn.Module:
        network = create_backbone(
            name, described.num_classes, described.channels, arguments, given_as
        )
        if different := declared.difference(network.state_dict()):
            raise RuntimeError(different)
        return network

    try:
        with at_most(declared.numbers, len(declared.shapes)):
            # What can't be built is said below; a few look at their own numbers while they are.
            with without_numbers(), suppress(UserError):
                build()
            network = build()
        network.load_state_dict(read_weights(file))
    except (RuntimeError, TooLarge) as error:
        raise UserError(f"{unfit}: {' '.join(str(error).split())[:200]}") from error
    return network


def find_model_folder(path: Path | str) -> Path:
    """Returns the model folder that `load_model`'s `path` means, downloaded if it has to be.

    Raises:
        UserError: There is none.
    """
    path = folder_of(path)
    if path.is_file() or (is_checkpoint_file(path) and not path.exists()):
        raise _refuse_file(path)
    for folder in (path, path / "model"):
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            return folder
    for folder in (path, path / "model"):
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if is_checkpoint_file(file) and file.name != WEIGHTS_FILE:
                raise _refuse_file(file)
    raise UserError(
        f"{path} holds no model ({CONFIG_FILE} and {WEIGHTS_FILE}, in itself or in model/)"
    )


def _refuse_file(file: Path) -> UserError:
    if not file.exists():
        return UserError(f"there is no file {file}")
    if not is_checkpoint_file(file):
        return UserError(f"{file} is a file; give the model folder that holds {WEIGHTS_FILE}")
    pickle = "is a pickle that" if file.suffix in PICKLE_SUFFIXES else "holds weights and"
    return UserError(
        f"{file} {pickle} does not say of which network; python -m dynat_ray.convert "
        f"{shlex.quote(str(file))} --arch NAME --out DIR makes a model folder of it, "
        "and runs no code that may be in it"
    )
