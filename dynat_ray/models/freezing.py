"""Parts of a network that are not trained: `model.freeze`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from dynat_ray.errors import UserError
from dynat_ray.models.classifier import Classifier

_ALL_BUT_HEAD = "backbone"
_SHOWN = 8


def freeze(model: Classifier, patterns: Sequence[str]) -> None:
    """Takes parameters out of training, and keeps the statistics of frozen batch normalisation.

    Args:
        model: Whose parameters.
        patterns: `backbone` (all but the classifier), names of modules or parameters, or patterns
            of shells, such as `stages.[01].*`.

    Raises:
        UserError: A pattern names nothing, or all of them everything.
    """
    parameters = dict(model.backbone.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        if pattern == _ALL_BUT_HEAD:
            named = parameters.keys() - model.head_names()
        else:
            named = {
                name
                for name in parameters
                if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
            }
        if not named:
            modules = [name for name, _ in model.backbone.named_children()]
            raise UserError(
                f"model.freeze has '{pattern}', which names nothing in '{model.name}'; its parts "
                f"are {', '.join(modules[:_SHOWN])}, and {_ALL_BUT_HEAD} is all but the classifier"
            )
        frozen |= named
    if frozen == parameters.keys():
        raise UserError("model.freeze freezes everything, so that nothing would be trained")
    for name in frozen:
        parameters[name].requires_grad_(False)
    model.keep_frozen_statistics()
