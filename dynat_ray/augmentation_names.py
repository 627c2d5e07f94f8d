"""How augmentations are written in `data.augment`, apart from what they do, which takes PyTorch.

So a command refuses a misspelt one before PyTorch is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dynat_ray.errors import UserError, unknown_name

_DEFAULTS = {
    "crop": 4.0,
    "flip": 0.0,
    "cutout": 16.0,
    "cutmix": 1.0,
    "resized-crop": 0.0,
    "randaugment": 9.0,
}
_ALLOWED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "crop": ("a whole number of pixels from 1 to 64", lambda v: 1 <= v <= 64 and v == int(v)),
    "cutout": ("a whole number of pixels, at least 1", lambda v: v >= 1 and v == int(v)),
    "cutmix": ("more than 0 and at most 100", lambda v: 0 < v <= 100),
    "randaugment": ("a whole magnitude from 0 to 10", lambda v: 0 <= v <= 10 and v == int(v)),
}


def read_augmentations(names: Sequence[str]) -> dict[str, float]:
    """Returns the number that goes with each augmentation, by name; of no meaning for some.

    Args:
        names: As in `data.augment`, such as `crop-4`.

    Raises:
        UserError: There is none of this name, it comes twice, or its number is not allowed.
    """
    values: dict[str, float] = {}
    for text in names:
        name, value = text, ""
        if text not in _DEFAULTS:
            name, _, value = text.rpartition("-")
        if name not in _DEFAULTS or (value and name not in _ALLOWED):
            raise unknown_name("augmentation in data.augment", text, _DEFAULTS)
        if name in values:
            raise UserError(f"data.augment names '{name}' twice")
        values[name] = _DEFAULTS[name]
        if value:
            meaning, allowed = _ALLOWED[name]
            try:
                values[name] = float(value)
            except ValueError:
                values[name] = float("nan")
            if not allowed(values[name]) if math.isfinite(values[name]) else True:
                raise UserError(f"data.augment has '{text}'; {name} takes {meaning}")
    return values
