from __future__ import annotations

import pytest

from dynat_ray import attack_names
from dynat_ray.attacks import registry
from dynat_ray.attacks.registry import get_attack, get_attacks
from dynat_ray.errors import UserError


def test_stages_of_autoattack_are_the_standard_ones_in_order() -> None:
    stages = [stage.name for stage in get_attack("autoattack").stages]
    assert stages == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert [stage.name for stage in get_attack("autoattack-rand").stages] == ["apgd-ce", "apgd-dlr"]


def test_numbers_in_names() -> None:
    (stage,) = get_attack("pgd-100x5").stages
    assert (stage.steps, stage.restarts, stage.objective) == (100, 5, "ce")
    (stage,) = get_attack("cw-50").stages
    assert (stage.steps, stage.restarts, stage.objective) == (50, 1, "cw")


@pytest.mark.parametrize("name", ["pgd-0", "pgd", "pgd-20x0", "PGD-20", "autoatack", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown attack"):
        get_attack(name)


def test_nearest_name_is_offered() -> None:
    with pytest.raises(UserError, match="did you mean autoattack"):
        get_attack("autoatack")


def test_a_command_knows_the_names_of_all() -> None:
    assert set(registry._FIXED) == attack_names._NAMES
    attack_names.check_attack_names(["pgd-100x5", "cw-30", *registry._FIXED])
    with pytest.raises(UserError, match="did you mean autoattack"):
        attack_names.check_attack_names(["clean", "autoatack"])


def test_each_once_in_order() -> None:
    names = [attack.name for attack in get_attacks(["pgd-20", "clean", "pgd-20"])]
    assert names == ["pgd-20", "clean"]
    with pytest.raises(UserError, match="no attacks"):
        get_attacks([])
