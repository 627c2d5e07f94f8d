"""The model under evaluation, and the settings of the run it comes from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import timm
from torch import Tensor, nn

from dynat_ray.config import RunConfig
from dynat_ray.data import DatasetInfo
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import in_fast_format
from dynat_ray.evaluation.fronted import FrontedModel, unfronted
from dynat_ray.models import Classifier, build_model, load_model
from dynat_ray.models.hub import has_prefix
from dynat_ray.models.importing import is_checkpoint_file
from dynat_ray.models.importing.conversion import model_from_file
from dynat_ray.models.label_names import first_difference
from dynat_ray.section import field_types
from dynat_ray.settings import Settings, read_settings
from dynat_ray.shown_text import shown_text
from dynat_ray.user_path import user_path
from dynat_ray.value_types import check_value

# Sections of a run's settings that an evaluation looks at; a method's may be unknown here.
_SECTIONS = ("data", "threat", "train", "eval")


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        name: As the user wrote it.
        model: In eval mode, float32, on the CPU.
        run: The folder of the run that trained it; None if there is none.
        settings: That run's settings by full key, such as `threat.eps`; empty without a run.
    """

    name: str
    model: nn.Module
    run: Path | None = None
    settings: Settings = field(default_factory=dict)


def load_subject(
    name: str, architecture: str | None = None, arguments: Mapping[str, Any] | None = None
) -> Subject:
    """Loads a model by what names it.

    Args:
        name: A run folder, a model folder (`config.json` and `model.safetensors`), a file of
            weights, `hf-hub:OWNER/NAME`, a model of timm's registry, which comes with its
            published weights, or `module:function`, which returns an `nn.Module` for images in
            [0, 1].
        architecture: Of a file of weights: its network in timm's registry.
        arguments: Of a file of weights: keyword arguments of its network.

    Raises:
        UserError: There is no such model, or it can't be loaded.
    """
    if has_prefix(name):
        return Subject(name, _ready(load_model(name)))
    folder = user_path(name)
    if is_checkpoint_file(folder) and folder.is_file():
        if not architecture:
            raise UserError(f"{name} does not say of which network its weights are; give --arch")
        model, notes = model_from_file(folder, architecture, arguments or {})
        for note in notes:
            print(shown_text(note, 500), file=sys.stderr)
        return Subject(name, _ready(model))
    if architecture:
        raise UserError(f"--arch is for a file of weights, and {name} is none")
    if folder.is_dir():
        run = next((f for f in (folder, folder.parent) if (f / "config.yaml").is_file()), None)
        settings = _settings_of(run / "config.yaml") if run else {}
        return Subject(name, _ready(load_model(folder)), run, settings)
    if ":" in name and not folder.exists():
        return Subject(name, _call(name))
    if timm.is_model(name):
        return _published(name)
    raise UserError(
        f"there is no model '{name}'; give a run folder, a model folder, a file of weights, a name "
        "of timm's, hf-hub:OWNER/NAME or module:function"
    )


def _settings_of(file: Path) -> Settings:
    """Returns what an evaluation may take over from a run, which may be a stranger's, checked."""
    written, settings = read_settings(file), Settings()
    hints = get_type_hints(RunConfig)
    for section in _SECTIONS:
        for name, hint in field_types(hints[section]).items():
            key = f"{section}.{name}"
            if key in written:
                try:
                    settings[key] = check_value(key, written[key], hint)
                except UserError as error:
                    raise UserError(f"the config file {file}: {str(error)[:300]}") from None
    return settings


def _published(name: str) -> Subject:
    published = timm.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        raise UserError(f"timm has no published weights for '{name}'; give a model folder")
    channels, height, width = published.input_size
    model = build_model(
        name,
        num_classes=published.num_classes,
        channels=channels,
        size=(height, width),
        mean=published.mean,
        std=published.std,
        pretrained=True,
    )
    # Images are brought to the size that the weights were trained for.
    return Subject(name, _ready(model), settings={"data.image_size": height})


def with_front(subject: Subject, backward: str | None, draws: int) -> Subject:
    """Returns the subject as attacks on a model with a front see it.

    Args:
        subject: The model.
        backward: `module:function`, which takes the model and returns a differentiable module of
            the same logits; None: the model is differentiated itself.
        draws: Answers of which attacks take the mean, at least 1.

    Returns:
        The subject; its name says what attacks follow, since numbers differ with it.

    Raises:
        UserError: The function fails, or returns something else.
    """
    if backward is None and draws == 1:
        return subject
    stand_in = None if backward is None else _made_by(backward, subject.model).float().eval()
    words = [f"--backward {backward}"] * (backward is not None) + [f"--eot {draws}"] * (draws > 1)
    return replace(
        subject,
        name=" ".join([subject.name, *words]),
        model=FrontedModel(subject.model, stand_in, draws).eval(),
    )


def _call(name: str) -> nn.Module:
    model = _made_by(name)
    # It may change its input in place, which here is what others go on with.
    model.register_forward_pre_hook(_give_copy)
    return _ready(model)


def _made_by(name: str, *arguments: nn.Module) -> nn.Module:
    """Returns the module that a user's `module:function` makes of the arguments."""
    module_name, _, function_name = name.partition(":")
    # As `python -m` does, so that a module in the working directory is found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        function: Any = getattr(importlib.import_module(module_name), function_name)
        model = function(*arguments)
    except (Exception, SystemExit) as error:  # it is the user's own code
        raise UserError(f"'{name}' gives no model: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"'{name}' must return an nn.Module, not {type(model).__name__}")
    return model


def _give_copy(model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = arguments
    return (images.clone(), *others)


def _ready(model: nn.Module) -> nn.Module:
    return in_fast_format(model.float().eval())


def image_size_for(subject: Subject, data: DatasetInfo) -> int:
    """Returns the side in pixels to bring test images to, as in training; 0: as stored."""
    side = int(subject.settings.get("data.image_size", 0))
    model = unfronted(subject.model)
    if side == 0 and data.size is None and isinstance(model, Classifier):
        return model.size[0]
    return side


def require_fit(model: nn.Module, data: DatasetInfo, images: Tensor) -> None:
    """Raises `UserError` if a model of ours was made for other classes, channels or sizes.

    Classes are told by their names, where the model has them: as many others, or the same in
    another order, would make every accuracy meaningless.

    Convolutional networks take images of any size and then predict at random, so that trying one
    would not tell. Models of others are only tried (`inputs.count_classes`).
    """
    model = unfronted(model)
    if not isinstance(model, Classifier):
        return
    channels, *size = images.shape[1:]
    for what, made_for, found in (
        ("classes", model.num_classes, data.num_classes),
        ("channels", model.channels, channels),
        ("pixels (height and width)", model.size, tuple(size)),
    ):
        if made_for != found:
            raise UserError(
                f"the model was made for images of {made_for} {what}, but data set '{data.name}' "
                f"has {found}; give the data it was trained on with --data"
            )
    if other := first_difference(model.label_names, data.classes):
        raise UserError(
            f"class {other.place} of the model is '{other.first}', but that of data set "
            f"'{shown_text(data.name, 60)}' is '{other.second}'; give data with the classes that "
            "it was trained on, in the same order, with --data"
        )
