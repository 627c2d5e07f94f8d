"""Model folders: `config.json` in timm's format beside `model.safetensors`.

`timm.create_model("local-dir:FOLDER", pretrained=True)` loads the network, which then takes
normalised images; `load_model` puts the normalisation in front of it. The folder may be a
stranger's: reading it touches no network, writes nothing and imports nothing.
"""

from __future__ import annotations

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
from dynat_ray.models.sketch import TooLarge, at_most, without_numbers
from dynat_ray.models.weights_file import WEIGHTS_FILE, read_declared, read_weights
from dynat_ray.user_path import user_path

_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")


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
        path: A model folder, or a run folder (its `model/`, the best on the validation split).

    Returns:
        The classifier in eval mode, on the CPU, in float32.

    Raises:
        UserError: No such folder, a damaged one, one whose weights are a pickle, or one that asks
            for more than an architecture of timm's registry with arguments of its own.
    """
    folder = _find_folder(user_path(path))
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


def initialise_from(model: Classifier, path: str) -> None:
    """Puts the weights and the normalisation of a saved model into `model`.

    The classifier stays as it is where the saved one has another number of classes.

    Args:
        model: In training mode or not, as it stays.
        path: Model or run folder, as `load_model` takes it.

    Raises:
        UserError: There is no such model, or it is of another architecture.
    """
    source = load_model(path)
    described = f"model.init_from {path} holds a '{source.name}'"
    if source.name != model.name or source.channels != model.channels:
        raise UserError(
            f"{described} for {source.channels} channel(s); model.name is '{model.name}' and the "
            f"images have {model.channels}"
        )
    weights = source.backbone.state_dict()
    if source.num_classes != model.num_classes:
        classifiers = source.backbone.pretrained_cfg["classifier"]  # type: ignore[index]
        heads = [classifiers] if isinstance(classifiers, str) else classifiers
        own = model.backbone.state_dict()
        for key in weights:
            if any(key.startswith(f"{head}.") for head in heads):
                weights[key] = own[key]
    try:
        model.backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{described} that was built with {source.arguments}; this one has {model.arguments} "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    model.mean.copy_(source.mean)
    model.std.copy_(source.std)


def _find_folder(path: Path) -> Path:
    """Returns the model folder that `path` means; raises `UserError` if there is none."""
    if path.is_file():
        if path.suffix in _PICKLE_SUFFIXES:
            raise _refuse_pickle(path)
        raise UserError(f"{path} is a file; give the model folder that holds {WEIGHTS_FILE}")
    for folder in (path, path / "model"):
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            return folder
    for folder in (path, path / "model"):
        for file in sorted(folder.iterdir()) if folder.is_dir() else []:
            if file.suffix in _PICKLE_SUFFIXES:
                raise _refuse_pickle(file)
    raise UserError(
        f"{path} holds no model ({CONFIG_FILE} and {WEIGHTS_FILE}, in itself or in model/)"
    )


def _refuse_pickle(file: Path) -> UserError:
    return UserError(
        f"{file} is a pickle, which can run code when it is read; models are read from "
        f"{WEIGHTS_FILE} only (safetensors.torch.save_file(model.state_dict(), ...) makes one)"
    )
