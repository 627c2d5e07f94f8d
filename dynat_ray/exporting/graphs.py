"""A model as a graph: ONNX, or PyTorch's own export. Images in [0, 1] go in, logits come out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynat_ray.data import load_test_images
from dynat_ray.errors import UserError
from dynat_ray.exporting.origin import Origin
from dynat_ray.models import Classifier
from dynat_ray.models.backbone import first_line

_CHECKED_IMAGES = 500
_BATCH = 50
# Relative to the spread of the logits.
_TOLERANCE = 1e-4


def write_onnx(origin: Origin, file: Path) -> None:
    """Writes a model as ONNX with a dynamic batch, and checks it with onnxruntime.

    Args:
        origin: The model and its run, whose test images it is checked on.
        file: To write.

    Raises:
        UserError: The libraries are not there, the network has operators that ONNX has not, or
            the graph gives other logits.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (what the exporter is built on)
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}; pip install 'dynat-ray[onnx]'") from error
    model = origin.model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (_example(model),),
                file,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=_dynamic_batch(),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter has its own for every stage
        raise _not_exported(model, "ONNX", error) from error
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(np.asarray(logits))

    _require_same(origin, run, file)


def write_program(origin: Origin, file: Path) -> None:
    """Writes a model as a program of `torch.export`, with a dynamic batch, and checks it.

    Args:
        origin: The model and its run, whose test images it is checked on.
        file: To write, `.pt2`.

    Raises:
        UserError: PyTorch can't export the network, or the program gives other logits.
    """
    model = origin.model
    try:
        program = torch.export.export(
            model, (_example(model),), dynamic_shapes=_dynamic_batch(), strict=False
        )
        torch.export.save(program, file)
    except Exception as error:  # the exporter has its own for every stage
        raise _not_exported(model, "torch.export", error) from error
    _require_same(origin, torch.export.load(file).module(), file)


def _example(model: Classifier) -> Tensor:
    return torch.rand(2, model.channels, *model.size)


def _dynamic_batch() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("batch")}}


def _require_same(origin: Origin, run: Callable[[Tensor], Tensor], file: Path) -> None:
    """Raises `UserError`, and removes the file, unless it gives the model's logits."""
    worst, spread, differing, images = 0.0, 0.0, 0, _images(origin)
    for part in images.split(_BATCH):
        with torch.no_grad():
            expected, found = origin.model(part), run(part)
        worst = max(worst, float((found - expected).abs().max()))
        spread = max(spread, float(expected.abs().max()))
        differing += int((found.argmax(1) != expected.argmax(1)).sum())
    if worst <= _TOLERANCE * max(1.0, spread) and differing == 0:
        return
    file.unlink()
    raise UserError(
        f"the exported '{origin.model.name}' gives other logits (by up to {worst:.2g}) and "
        f"{differing} other predictions on {len(images)} images; it was removed"
    )


def _images(origin: Origin) -> Tensor:
    """Returns up to 500 test images of the run's data, where they fit, or random ones."""
    model, run = origin.model, origin.run
    shape = (model.channels, *model.size)
    if run is not None and run.info is not None and run.info.size == model.size:
        images, _ = load_test_images(run.config.data.path, limit=_CHECKED_IMAGES)
        if images.shape[1:] == shape:
            return images
    return torch.rand(_CHECKED_IMAGES, *shape, generator=torch.Generator().manual_seed(0))


def _not_exported(model: Classifier, what: str, error: Exception) -> UserError:
    # The first cause names the operator, where one is what is wrong.
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    assert isinstance(cause, Exception)
    return UserError(
        f"'{model.name}' can't be exported to {what}: {type(cause).__name__}: "
        f"{first_line(cause)[:300]}"
    )
