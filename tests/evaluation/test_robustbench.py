from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from dynat_ray.data import DatasetInfo, load_info
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.robustbench import robustbench_entry
from dynat_ray.evaluation.subject import Subject
from dynat_ray.perturb.threat import Threat

# The keys that every entry of RobustBench's model_info has.
KEYS = {
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue"),
    *("architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable"),
}


@pytest.fixture
def data(digits: Path) -> DatasetInfo:
    return load_info(digits)


def _outcome(attack: str, fooled_by: list[int]) -> Outcome:
    return Outcome(attack, np.arange(len(fooled_by)), np.zeros(len(fooled_by)), np.array(fooled_by))


def test_entry(data: DatasetInfo) -> None:
    found = {"autoattack": _outcome("autoattack", [-1, -1, 0, -2])}
    subject = Subject("mine", nn.Identity())
    entry = robustbench_entry(
        {Threat("Linf", k / 255): found for k in (4, 8, 16)}, subject, data, []
    )
    assert entry is not None
    assert entry.keys() == KEYS
    assert (entry["eps"], entry["clean_acc"], entry["autoattack_acc"]) == (
        "8/255",
        "75.00",
        "50.00",
    )
    assert entry["dataset"] == "digits"
    assert not entry["unreliable"]
    assert "4 of" in entry["footnote"]


def test_flagged_models_are_unreliable(data: DatasetInfo) -> None:
    found = {Threat("L2", 0.3): {"autoattack": _outcome("autoattack", [-1])}}
    check = Check("large eps", True, "something is wrong")
    entry = robustbench_entry(found, Subject("mine", nn.Identity()), data, [check])
    assert entry is not None
    assert entry["unreliable"]
    assert entry["eps"] == "0.3"


def test_without_autoattack_there_is_no_entry(data: DatasetInfo) -> None:
    found = {Threat("L2", 0.3): {"pgd-20": _outcome("pgd-20", [-1])}}
    assert robustbench_entry(found, Subject("mine", nn.Identity()), data, []) is None


def test_a_sample_is_no_entry(data: DatasetInfo) -> None:
    found = {Threat("Linf", 8 / 255): {"autoattack-sampled": _outcome("autoattack-sampled", [-1])}}
    assert robustbench_entry(found, Subject("mine", nn.Identity()), data, []) is None
