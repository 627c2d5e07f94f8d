from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dynat_ray.errors import UserError
from dynat_ray.evaluation.request import Options, Request
from dynat_ray.evaluation.request import complete as complete_request
from dynat_ray.evaluation.subject import Subject

RUN = Path("runs/one")
SETTINGS: dict[str, Any] = {
    "data.path": "/data",
    "threat.norm": "L2",
    "threat.eps": 0.5,
    "eval.attacks": ["clean", "fgsm"],
    "eval.samples": 7,
    "eval.batch_size": 33,
    "train.seed": 4,
}


def _subject(**settings: Any) -> Subject:
    return Subject("model", nn.Identity(), RUN, {**SETTINGS, **settings})


def complete(subject: Subject, **given: Any) -> Request:
    return complete_request(subject, Options(**given))


def test_what_is_not_given_comes_from_the_run() -> None:
    request = complete(_subject())
    assert request.data == Path("/data")
    assert (request.norm, request.eps, request.attacks) == ("L2", (0.5,), ("clean", "fgsm"))
    assert (request.samples, request.costly_samples) == (0, 7)
    assert (request.seed, request.batch_size) == (4, 33)
    assert request.out == RUN / "evaluation.json"


def test_what_is_given_wins() -> None:
    request = complete(
        _subject(),
        data="/other",
        norm="Linf",
        eps="8/255, 0,4/255",
        attacks="pgd-20, autoattack",
        samples=5,
        seed=0,
        batch_size=2,
        out="x/y.json",
    )
    assert request.data == Path("/other")
    assert (request.norm, request.eps) == ("Linf", (0, 4 / 255, 8 / 255))
    assert request.attacks == ("pgd-20", "autoattack")
    # A number that is asked for is what every attack sees.
    assert (request.samples, request.costly_samples) == (5, 0)
    assert (request.seed, request.batch_size, request.out) == (0, 2, Path("x/y.json"))


def test_a_norm_of_its_own_has_a_radius_of_its_own() -> None:
    assert complete(_subject(), norm="L2").eps == (0.5,)
    with pytest.raises(UserError, match="give --eps"):
        complete(Subject("model", nn.Identity()), data="d", norm="L2")
    assert complete(_subject(), norm="L2", eps="3").eps == (3.0,)
    with pytest.raises(UserError, match="--norm L1 .* such as 12"):
        complete(_subject(), norm="L1")


def test_without_a_run() -> None:
    with pytest.raises(UserError, match="--data"):
        complete(Subject("model", nn.Identity()))
    request = complete(Subject("model", nn.Identity()), data="d")
    assert (request.norm, request.eps, request.seed) == ("Linf", (8 / 255,), 0)
    assert request.out == Path("evaluation.json")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": "-1"}, "--eps has '-1'"),
        ({"eps": "8/0"}, "--eps has '8/0'"),
        ({"eps": "nan"}, "--eps has 'nan'"),
        ({"eps": ""}, "--eps has ''"),
        ({"samples": 0}, "--samples is 0"),
        ({"samples": -3}, "--samples is -3"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"attacks": "pgd-20,autoatack"}, "did you mean autoattack"),
        ({"attacks": ""}, "no attacks"),
        ({"norm": "Linf"}, "--norm Linf .* give --eps"),
    ],
)
def test_bad_values_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        complete(_subject(), **given)


def test_the_second_stage_is_the_runs_unless_given() -> None:
    assert complete(_subject()).second_stage == 200
    assert complete(_subject(**{"eval.second_stage": 31})).second_stage == 31
    assert complete(_subject(), second_stage=0).second_stage == 0
    with pytest.raises(UserError, match="--second-stage is -1"):
        complete(_subject(), second_stage=-1)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, 0.5),
        ({"eps": "0,0.25,0.5,1"}, 0.5),
        ({"eps": "0,0.25,1"}, 1.0),
        ({"eps": "0,0.5,1", "norm": "Linf"}, 1.0),
    ],
)
def test_pictures_are_at_the_runs_own_eps(given: dict[str, Any], shown: float) -> None:
    assert complete(_subject(), **given).shown.eps == shown
