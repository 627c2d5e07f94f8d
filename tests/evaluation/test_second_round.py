"""Whom the sampled stages see, on samples and at several radii."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from dynat_ray.attacks.registry import get_attack, get_attacks
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.second_round import draw_second_stage, with_second_stage
from dynat_ray.evaluation.second_stage import SecondStage
from dynat_ray.evaluation.shards import Shard, run_shards
from dynat_ray.perturb.threat import Threat
from tests.quick_attack import QUICK, WHOLE, quick_attacks
from tests.victim import EPS, Victim

SAMPLED = "autoattack-sampled"


def _survived(count: int, wrong: int = 3) -> Outcome:
    """Samples of which the last `wrong` did not survive; the later, the smaller the margin."""
    total = count + wrong
    return Outcome(
        attack=SAMPLED,
        positions=np.arange(total),
        predicted=np.zeros(total, dtype=np.int64),
        fooled_by=np.where(np.arange(total) < count, -1, 1),
        stages=("apgd-ce", "apgd-t", "fab-t", "square"),
        margins=np.where(np.arange(total) < count, total - np.arange(total), 0.0),
    )


def _drawn(outcome: Outcome, count: int, seed: int = 0) -> SecondStage:
    stage = draw_second_stage(outcome, count, seed=(seed,)).second_stage
    assert stage is not None
    return stage


def test_the_smallest_margins_are_tried_whole_and_of_the_others_a_sample() -> None:
    stage = _drawn(_survived(40), 7)
    assert (stage.stratum[40:] == -1).all()
    assert stage.stratum[39] == 0
    assert (stage.stratum[:39] == 1).all()
    assert stage.tried[39]
    assert stage.tried[:39].sum() == 7
    assert (_drawn(_survived(101), 7).stratum[98:101] == 0).all()
    assert not stage.tried[40:].any()


def test_every_other_survivor_is_drawn_as_often() -> None:
    drawn = np.sum([_drawn(_survived(20), 6, seed).tried[:19] for seed in range(600)], axis=0)
    # 189 on average, standard deviation 11.4.
    assert drawn.min() > 140
    assert drawn.max() < 240


def test_fewer_survivors_than_asked_for_are_all_tried() -> None:
    for survivors in (0, 1, 9):
        stage = _drawn(_survived(survivors), 9)
        assert stage.tried.sum() == survivors
        found = with_second_stage(draw_second_stage(_survived(survivors), 9, (0,)), None, None)
        assert found.estimate.accuracy == pytest.approx(100 * survivors / (survivors + 3))


def test_what_falls_at_one_radius_falls_at_the_next() -> None:
    drawn = draw_second_stage(_survived(40), 7, seed=(0,))
    stage = drawn.second_stage
    assert stage is not None
    tried = stage.tried.nonzero()[0]
    fell = Outcome(SAMPLED, tried, np.full(len(tried), 5), np.where(tried % 2 == 0, 3, -1))
    first = with_second_stage(drawn, fell, None)
    assert (first.predicted[tried[tried % 2 == 0]] == 5).all()
    assert first.fooled_by[tried].tolist() == fell.fooled_by.tolist()
    assert "estimate" in first.note
    next_drawn = draw_second_stage(_survived(38, wrong=5), 7, seed=(1,))
    second = with_second_stage(next_drawn, None, first)
    fallen = first.fooled_by >= 0
    assert (second.fooled_by[fallen] == first.fooled_by[fallen]).all()
    assert second.second_stage is not None
    assert (second.second_stage.stratum[fallen] == -1).all()
    assert not second.second_stage.tried[fallen].any()
    for number in ("accuracy", "low", "high"):
        assert getattr(second.estimate, number) <= getattr(first.estimate, number)
    # Nothing fell to the last stages here, and yet the curve may not rise.
    assert replace(second, at_most=None).accuracy > second.accuracy


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_attacks():
        yield


@pytest.fixture
def plan() -> EvaluationPlan:
    return EvaluationPlan(
        samples=30,
        classes=10,
        attacks=get_attacks(["clean", QUICK]),
        threats=[Threat("Linf", eps) for eps in (0.0, EPS / 2, EPS)],
        costly_positions=np.arange(0, 30, 2),
        seed=3,
        batch_size=8,
        second_stage=4,
    )


def _run(
    plan: EvaluationPlan, victim: Victim, *, backwards: bool = False
) -> Mapping[Threat, Mapping[str, Outcome]]:
    def run(shards: Sequence[Shard]) -> list[tuple[Shard, object]]:
        chosen = shards[::-1] if backwards else shards
        return list(run_shards(victim.model, victim.images, victim.labels, chosen, seed=plan.seed))

    finished = run(plan.shards())
    finished += run(plan.second_round(finished))
    return plan.outcomes(finished)


def test_order_of_shards_does_not_matter(plan: EvaluationPlan, robust: Victim) -> None:
    found, other = _run(plan, robust), _run(plan, robust, backwards=True)
    for threat in plan.threats:
        one, two = found[threat][QUICK], other[threat][QUICK]
        assert one.predicted.tolist() == two.predicted.tolist()
        assert one.fooled_by.tolist() == two.fooled_by.tolist()
        assert one.entry() == two.entry()
    assert found[plan.threats[0]][QUICK].second_stage is None
    for eps in plan.threats[1:]:
        outcome = found[eps][QUICK]
        assert outcome.positions.tolist() == plan.costly_positions.tolist()
        assert outcome.entry()["two_stage"]["strata"][1]["tried"] == 4
        assert list(outcome.entry()["after"]) == ["fgsm", "pgd-3"]
        stage = outcome.second_stage
        assert stage is not None
        # Only who was tried can have fallen to the last stages.
        assert not (outcome.fooled_by >= 2)[~stage.tried].any()
    accuracies = [found[threat][QUICK].accuracy for threat in plan.threats]
    assert accuracies == sorted(accuracies, reverse=True)


def test_the_draw_is_the_seeds(plan: EvaluationPlan) -> None:
    assert plan.settings()["second_stage"] == 4
    assert "second_stage" not in replace(plan, attacks=get_attacks([WHOLE])).settings()
    draws = {tuple(_drawn(_survived(40), 7, seed).tried) for seed in (0, 0, 1, 2)}
    assert len(draws) == 3


def test_without_a_bound_it_is_the_whole_attack(plan: EvaluationPlan, robust: Victim) -> None:
    every = replace(plan, attacks=get_attacks([WHOLE, QUICK]), second_stage=0)
    for outcomes in _run(every, robust).values():
        assert outcomes[WHOLE].fooled_by.tolist() == outcomes[QUICK].fooled_by.tolist()
        assert outcomes[WHOLE].entry() == outcomes[QUICK].entry()


def test_on_its_own(robust: Victim) -> None:
    images, labels, threat = robust.images[:40], robust.labels[:40], Threat("Linf", EPS)
    found = evaluate_attacks(robust.model, images, labels, [WHOLE, QUICK], threat, second_stage=3)
    assert found[QUICK].entry()["two_stage"]["strata"][1]["tried"] == 3
    assert found[QUICK].interval[0] < found[WHOLE].interval[0]
    assert found[QUICK].note
    assert not found[WHOLE].note


def test_it_has_the_stages_of_autoattack() -> None:
    assert get_attack(SAMPLED).stages == get_attack("autoattack").stages
    assert [stage.name for _, stage in get_attack(SAMPLED).places("last")] == ["fab-t", "square"]
