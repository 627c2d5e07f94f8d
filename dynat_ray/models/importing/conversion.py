"""From a file of weights to a model that says itself what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynat_ray.models.arguments import check_arguments
from dynat_ray.models.build import build_model
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.importing.adopting import adopt, describe_network
from dynat_ray.models.importing.checkpoint_file import read_checkpoint


def model_from_file(
    file: Path,
    architecture: str,
    arguments: Mapping[str, Any],
    *,
    size: int | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> tuple[Classifier, list[str]]:
    """Returns the network of a file of weights, and what a user should know of it.

    Args:
        file: As `read_checkpoint` takes it.
        architecture: Name in timm's registry.
        arguments: Its keyword arguments beyond those that the weights tell.
        size: Side of an image in pixels; None: what the architecture is made for.
        mean: Of each channel (or one for all) in [0, 1] pixels, where the file does not say or is
            wrong; empty: what it says.
        std: Standard deviation, likewise.

    Returns:
        The classifier in eval mode, and sentences.

    Raises:
        UserError: The file can't be read, or is of another architecture.
    """
    checkpoint = read_checkpoint(file)
    checkpoint = replace(
        checkpoint, mean=tuple(mean) or checkpoint.mean, std=tuple(std) or checkpoint.std
    )
    described = describe_network(checkpoint, architecture, arguments, str(file))
    check_arguments(architecture, described["kwargs"], "--kwargs")
    if size is not None:
        described["size"] = (size, size)
    model = build_model(architecture, **described)
    notes = adopt(model, checkpoint, str(file))
    if checkpoint.averaged:
        notes.append(f"{file} holds averaged weights beside others: the averaged ones are taken")
    return model.eval(), notes
