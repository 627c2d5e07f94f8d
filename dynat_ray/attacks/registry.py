"""Evaluation attacks by the names that papers give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dynat_ray.attack_names import STEPPED, add_attack_name, unknown_attack
from dynat_ray.attacks.apgd import RANDOM_DRAWS, AutoPgd, TargetedAutoPgd
from dynat_ray.attacks.corruptions import get_corruptions
from dynat_ray.attacks.fab import TargetedFab
from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.attacks.margin import CleanMargin
from dynat_ray.attacks.minimal import DeepFool, Fab
from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.square import Square, require_square
from dynat_ray.attacks.stages import Stage
from dynat_ray.config import Norm
from dynat_ray.errors import UserError, unknown_name

CLEAN = "clean"
# Of an attack's stages: all, those that see every sample, or those that see a sample of the rest.
Part = Literal["whole", "first", "last"]


@dataclass(frozen=True)
class Attack:
    """A named attack.

    Attributes:
        name: As the user wrote it.
        stages: Run in order, each on the samples still right; none for `clean`.
        costly: Takes hundreds of passes per sample, so that a run may give it fewer samples.
        sampled: So many of the last stages see a sample of what the others leave right.
    """

    name: str
    stages: tuple[Stage, ...]
    costly: bool = False
    sampled: int = 0

    def places(self, part: Part = "whole") -> list[tuple[int, Stage]]:
        """Returns a part's stages, each with its place among all."""
        first = len(self.stages) - self.sampled
        chosen = {"whole": slice(None), "first": slice(first), "last": slice(first, None)}[part]
        return list(enumerate(self.stages))[chosen]

    def note(self, classes: int) -> str:
        """Returns what is done otherwise than in the literature for so few classes."""
        return "; ".join(filter(None, (stage.note(classes) for stage in self.stages)))


_STANDARD = (AutoPgd("ce"), TargetedAutoPgd(), TargetedFab(), Square())
_RANDOMISED = (AutoPgd("ce", draws=RANDOM_DRAWS), AutoPgd("dlr", draws=RANDOM_DRAWS))

_FIXED = {
    attack.name: attack
    for attack in (
        Attack(CLEAN, ()),
        Attack("fgsm", (GradientAttack("fgsm", steps=1, random_start=False),)),
        # Thirty steps, as CW-Linf is reported since TRADES and MART.
        Attack("cw", (GradientAttack("cw", steps=30, objective="cw"),)),
        Attack("apgd-ce", (AutoPgd("ce"),)),
        Attack("apgd-dlr", (AutoPgd("dlr"),)),
        Attack("pma", (AutoPgd("pm"),)),
        Attack("apgd-t", (TargetedAutoPgd(),), costly=True),
        Attack("fab-t", (TargetedFab(),), costly=True),
        Attack("square", (Square(),), costly=True),
        Attack("autoattack", _STANDARD, costly=True),
        # What it fools, and it fools most, the longer stages need not try.
        Attack("autoattack-pma", (AutoPgd("pm"), *_STANDARD), costly=True),
        # FAB and Square take most of the time and fool few of what APGD leaves right.
        Attack("autoattack-sampled", _STANDARD, costly=True, sampled=2),
        Attack("autoattack-rand", _RANDOMISED, costly=True),
    )
}


def register_attack(attack: Attack) -> None:
    """Makes an attack known under its name, which must be new.

    Args:
        attack: Its stages are named, see `Stage`; workers look it up by its name.
    """
    assert attack.name not in _FIXED, f"there is an attack '{attack.name}' already"
    _FIXED[attack.name] = attack
    add_attack_name(attack.name)


def get_attack(name: str) -> Attack:
    """Returns the attack called `name`.

    Args:
        name: `clean`, `fgsm`, `pgd-N`, `pgd-NxR` (R restarts), `cw`, `cw-N`, `cw-NxR`, `apgd-ce`,
            `apgd-dlr`, `pma`, `apgd-t`, `fab-t`, `square`, `autoattack`, `autoattack-pma`,
            `autoattack-sampled` or `autoattack-rand`.

    Raises:
        UserError: No attack has this name; names the nearest ones.
    """
    if name in _FIXED:
        return _FIXED[name]
    match = STEPPED.fullmatch(name)
    if match is None:
        raise unknown_attack(name)
    stage = GradientAttack(
        name,
        steps=int(match[2]),
        objective="cw" if match[1] == "cw" else "ce",
        restarts=int(match[3] or 1),
    )
    return Attack(name, (stage,))


def get_attacks(names: Sequence[str]) -> list[Attack]:
    """Returns the attacks called `names`, each once, in the order given.

    Raises:
        UserError: A name is unknown, or there is none.
    """
    attacks = [get_attack(name) for name in dict.fromkeys(names)]
    if not attacks:
        raise UserError("no attacks given; such as: clean, pgd-20, autoattack")
    return attacks


def require_takeable(attacks: Sequence[Attack], images: Tensor, norm: Norm) -> None:
    """Raises `UserError` if one of the attacks can't run on images `(N, C, H, W)` of this size."""
    if any(isinstance(stage, Square) for attack in attacks for stage in attack.stages):
        require_square(images, norm)


_DISTANCES: dict[str, Probe] = {probe.name: probe for probe in (DeepFool(), Fab())}
MARGIN = CleanMargin()


def get_distances(names: Sequence[str]) -> list[Probe]:
    """Returns what measures the distance of the nearest adversarial image, by name.

    Args:
        names: Each `deepfool` or `fab`; or `all` alone.

    Raises:
        UserError: A name is unknown.
    """
    if list(names) == ["all"]:
        return list(_DISTANCES.values())
    for name in names:
        if name not in _DISTANCES:
            raise unknown_name("distance", name, _DISTANCES)
    return [_DISTANCES[name] for name in dict.fromkeys(names)]


def get_probe(name: str) -> Probe:
    """Returns the probe of a name: `deepfool`, `fab`, `margin`, or a corruption such as `fog-3`."""
    if name == MARGIN.name:
        return MARGIN
    if name in _DISTANCES:
        return _DISTANCES[name]
    (corruption,) = get_corruptions([name])
    return corruption
