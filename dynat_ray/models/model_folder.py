"""Model folders: `config.json` in timm's format beside `model.safetensors`.

`timm.create_model("local-dir:FOLDER", pretrained=True)` loads the network, which then takes
normalised images; `load_model` puts the normalisation in front of it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from dynat_ray.errors import UserError
from dynat_ray.models.backbone import create_backbone
from dynat_ray.models.classifier import Classifier
from dynat_ray.storage.atomic import atomic_folder, make_folder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
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
            text = json.dumps(_describe(model), indent=2) + "\n"
            (new / CONFIG_FILE).write_text(text, encoding="utf-8")
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
        UserError: No such folder, a damaged one, or one whose weights are a pickle.
    """
    folder = _find_folder(Path(path).expanduser())
    described = _read_config(folder)
    try:
        published = described["pretrained_cfg"]
        name, num_classes = described["architecture"], int(described["num_classes"])
        arguments = described.get("model_args", {})
        channels, height, width = published["input_size"]
        mean, std = _as_many(published["mean"], channels), _as_many(published["std"], channels)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG_FILE} describes no model: {error!r}") from error
    backbone = create_backbone(name, num_classes, channels, arguments)
    weights = _read_weights(folder)
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"the weights in {folder} don't fit its architecture '{name}': "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    model = Classifier(
        backbone,
        name=name,
        arguments=arguments,
        num_classes=num_classes,
        size=(height, width),
        mean=mean,
        std=std,
    )
    return model.float().eval()


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


def _describe(model: Classifier) -> dict[str, Any]:
    published: dict[str, Any] = model.backbone.pretrained_cfg  # type: ignore[assignment]
    kept = ("fixed_input_size", "first_conv", "classifier", "pool_size", "interpolation")
    return {
        "architecture": model.name,
        "num_classes": model.num_classes,
        "model_args": model.arguments,
        "pretrained_cfg": {key: published[key] for key in kept if key in published}
        | {
            "num_classes": model.num_classes,
            "input_size": [model.channels, *model.size],
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "crop_pct": 1.0,
        },
    }


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


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG_FILE} can't be read: {error}") from error
    if not isinstance(described, dict):
        raise UserError(f"{folder / CONFIG_FILE} describes no model")
    return described


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS_FILE} is damaged: {error}") from error


def _as_many(values: Any, channels: int) -> list[float]:
    numbers = [float(value) for value in values]
    return numbers if len(numbers) == channels else [sum(numbers) / len(numbers)] * channels
