"""How the attacks of an evaluation are called, apart from what they do, which takes PyTorch.

So a command refuses a misspelt name before PyTorch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dynat_ray.errors import UserError, unknown_name

_NAMES = {
    *("clean", "fgsm", "cw", "apgd-ce", "apgd-dlr", "pma", "apgd-t", "fab-t", "square"),
    *("autoattack", "autoattack-pma", "autoattack-sampled", "autoattack-rand"),
}
STEPPED = re.compile(r"(pgd|cw)-([1-9]\d*)(?:x([1-9]\d*))?")
"""`pgd-20`, `pgd-100x5` (five restarts), `cw-50`."""


def add_attack_name(name: str) -> None:
    """Makes the name of an attack known, as plugins do with theirs."""
    _NAMES.add(name)


def check_attack_names(names: Iterable[str]) -> None:
    """Raises `UserError` with the nearest names if there is no such attack."""
    for name in names:
        if name not in _NAMES and STEPPED.fullmatch(name) is None:
            raise unknown_attack(name)


def unknown_attack(name: str) -> UserError:
    """Returns the error for the name of an attack that there is not."""
    return unknown_name("attack", name, [*_NAMES, "pgd-20", "pgd-100x5", "cw-30"])
