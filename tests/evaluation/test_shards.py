from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.attacks import registry
from dynat_ray.attacks.apgd import AutoPgd
from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.attacks.registry import Attack, get_attacks
from dynat_ray.evaluation.outcomes import collect
from dynat_ray.evaluation.plan import EvaluationPlan, plan_shards
from dynat_ray.evaluation.shards import Shard, evaluate_shard, run_shards, shard_seed
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim

CHEAP = ("clean", "pgd-5", "apgd-ce")
THREAT = Threat("Linf", EPS)


def _run(victim: Victim, shard: Shard, seed: int = 0) -> dict[str, list[int]]:
    rows = torch.from_numpy(shard.positions)
    found = evaluate_shard(victim.model, victim.images[rows], victim.labels[rows], shard, seed=seed)
    (outcomes,) = found.values()
    return {name: outcome.predicted.tolist() for name, outcome in outcomes.items()}


@pytest.mark.parametrize(("samples", "batch_size"), [(1, 1), (10, 3), (10, 10), (7, 100)])
def test_every_sample_is_in_one_shard(samples: int, batch_size: int) -> None:
    threats = [Threat("Linf", 0.1), Threat("Linf", 0.2)]
    shards = plan_shards(samples, get_attacks(["clean"]), threats, batch_size=batch_size)
    assert all(shard.threats == tuple(threats) for shard in shards)
    assert sorted(np.concatenate([s.positions for s in shards])) == list(range(samples))
    sizes = [len(shard.positions) for shard in shards]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_costly_attacks_see_only_their_samples() -> None:
    attacks = get_attacks(["clean", "pgd-20", "autoattack"])
    costly = np.array([1, 4, 5])
    shards = plan_shards(10, attacks, [THREAT], batch_size=2, costly_positions=costly)
    seen: dict[str, list[int]] = {attack.name: [] for attack in attacks}
    for shard in shards:
        for name in shard.attacks:
            seen[name] += shard.positions.tolist()
    assert sorted(seen["autoattack"]) == [1, 4, 5]
    assert sorted(seen["clean"]) == sorted(seen["pgd-20"]) == list(range(10))


def test_seeds_differ_between_shards_and_evaluations() -> None:
    seeds = {shard_seed(seed, number) for seed in range(20) for number in range(20)}
    assert len(seeds) == 400
    assert shard_seed(3, 7) == shard_seed(3, 7)


def test_outcome_depends_on_seed_and_number_alone(robust: Victim, few_iterations: int) -> None:
    shard = Shard(2, (THREAT,), np.arange(40), CHEAP)
    first = _run(robust, shard)
    torch.manual_seed(99)
    torch.rand(7)
    assert _run(robust, shard) == first
    starts = {seed: _images_of_first_step(robust, seed) for seed in (0, 1)}
    assert not torch.equal(starts[0], starts[1])


def _images_of_first_step(victim: Victim, seed: int) -> torch.Tensor:
    """Returns what APGD puts through the model after its passes over the clean images."""
    seen: list[torch.Tensor] = []
    handle = victim.model.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0].detach().clone())
    )
    _run(victim, Shard(0, (THREAT,), np.arange(8), ("apgd-ce",)), seed)
    handle.remove()
    return next(images for images in seen if not torch.equal(images, victim.images[:8]))


def test_shards_in_any_order_give_the_same_outcomes(robust: Victim, few_iterations: int) -> None:
    attacks = get_attacks(CHEAP)
    shards = plan_shards(60, attacks, [THREAT], batch_size=16)
    finished = {}
    for order in (shards, shards[::-1]):
        parts = []
        for shard in order:
            rows = torch.from_numpy(shard.positions)
            images, labels = robust.images[rows], robust.labels[rows]
            found = evaluate_shard(robust.model, images, labels, shard, seed=1)
            parts.append((shard, found))
        outcomes = collect(parts, attacks, classes=10)[THREAT]
        finished[order is shards] = {name: o.predicted.tolist() for name, o in outcomes.items()}
    assert finished[True] == finished[False]
    assert len(finished[True]["clean"]) == 60


def test_later_stages_see_only_samples_still_right(
    robust: Victim, few_iterations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of two draws for a gradient, instead of 20.
    stages = tuple(AutoPgd(loss, draws=2) for loss in ("ce", "dlr"))
    rand = replace(registry.get_attack("autoattack-rand"), stages=stages)
    monkeypatch.setitem(registry._FIXED, rand.name, rand)
    shard = Shard(0, (THREAT,), np.arange(60), ("autoattack-rand",))
    found = evaluate_shard(robust.model, robust.images[:60], robust.labels[:60], shard, seed=0)[
        THREAT
    ]["autoattack-rand"]
    labels = robust.labels[:60].numpy()
    assert set(found.fooled_by) <= {-2, -1, 0, 1}
    assert ((found.predicted == labels) == (found.fooled_by == -1)).all()
    clean = robust.model(robust.images[:60]).argmax(1).numpy()
    assert ((clean != labels) == (found.fooled_by == -2)).all()


def test_what_fell_at_a_radius_is_not_attacked_at_the_next(
    robust: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked: list[tuple[float, int]] = []
    perturb = GradientAttack.perturb

    def counted(self: GradientAttack, *arguments: Any) -> torch.Tensor:
        attacked.append((arguments[-1].threat.eps, len(arguments[1])))
        return perturb(self, *arguments)

    monkeypatch.setattr(GradientAttack, "perturb", counted)
    threats = tuple(THREAT.at(factor * EPS) for factor in (0.0, 0.5, 1.0, 1.5))
    images, labels = robust.images[:60], robust.labels[:60]
    shard = Shard(0, threats, np.arange(60), ("pgd-5",))
    found = evaluate_shard(robust.model, images, labels, shard, seed=0)
    left = [int((found[threat]["pgd-5"].fooled_by == -1).sum()) for threat in threats]
    assert attacked == [(threat.eps, n) for threat, n in zip(threats[1:], left, strict=False)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < left[0]
    for small, large in pairwise(threats):
        before, after = found[small]["pgd-5"], found[large]["pgd-5"]
        fell = before.fooled_by != -1
        assert (after.predicted[fell] == before.predicted[fell]).all()
        assert (after.fooled_by[fell] == before.fooled_by[fell]).all()


def test_eps_zero_changes_nothing(robust: Victim) -> None:
    shard = Shard(0, (THREAT.at(0.0),), np.arange(60), ("clean", "autoattack"))
    found = _run(robust, shard)
    assert found["autoattack"] == found["clean"]


def test_model_and_random_state_are_left_as_they_were(robust: Victim, few_iterations: int) -> None:
    model = robust.model
    model.zero_grad()
    model[0].train()
    model[0].weight.requires_grad_(True)
    model[3].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    try:
        _run(robust, Shard(0, (THREAT,), np.arange(8), ("pgd-2", "apgd-ce", "fab-t")))
        assert [module.training for module in model[:3]] == [True, False, False]
        assert model[0].weight.requires_grad
        assert not model[3].weight.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    finally:
        model.eval().requires_grad_(True)


def test_autocast_around_it_makes_no_difference(robust: Victim, few_iterations: int) -> None:
    shard = Shard(0, (THREAT,), np.arange(40), CHEAP)
    expected = _run(robust, shard)
    seen = []
    handle = robust.model.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _run(robust, shard) == expected
    handle.remove()
    assert set(seen) == {torch.float32}


def test_a_model_that_answers_at_random_does_so_from_the_shards_seed(robust: Victim) -> None:
    class AtRandom(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = robust.model(images + 0.5 * torch.randn_like(images))
            return logits

    victim = Victim(AtRandom(), robust.images, robust.labels)
    shard = Shard(2, (THREAT,), np.arange(60), ("clean", "fgsm"))
    first = _run(victim, shard)
    before = torch.get_rng_state()
    assert _run(victim, shard) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert _run(victim, shard, seed=1) != first


STAGED = Attack(
    "staged",
    (
        GradientAttack("pgd-2", steps=2),
        GradientAttack("pgd-5", steps=5),
        GradientAttack("cw-10", steps=10, objective="cw"),
    ),
)


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(registry._FIXED, STAGED.name, STAGED)
    return STAGED.name


def test_what_a_whole_attack_leaves_right_is_right_at_smaller_radii(
    robust: Victim, staged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, float], set[int]] = {}
    images, labels = robust.images[:60], robust.labels[:60]
    rows = {image.numpy().tobytes(): row for row, image in enumerate(images)}
    perturb = GradientAttack.perturb

    def watched(self: GradientAttack, *arguments: Any) -> torch.Tensor:
        key = (self.name, arguments[-1].threat.eps)
        seen[key] = seen.get(key, set()) | {rows[image.numpy().tobytes()] for image in arguments[1]}
        return perturb(self, *arguments)

    threats = tuple(THREAT.at(factor * EPS) for factor in (0.5, 1.0, 1.5))
    shard = Shard(0, threats, np.arange(60), (staged,))
    alone = [
        evaluate_shard(robust.model, images, labels, replace(shard, threats=(threat,)), seed=0)
        for threat in threats
    ]
    monkeypatch.setattr(GradientAttack, "perturb", watched)
    together = evaluate_shard(robust.model, images, labels, shard, seed=0)
    right = []
    for threat, single in zip(threats, alone, strict=True):
        on_curve = together[threat][staged].fooled_by == -1
        assert (on_curve != (single[threat][staged].fooled_by == -1)).sum() <= 1
        right.append(set(np.flatnonzero(on_curve).tolist()))
    assert right[2] < right[1] < right[0]
    small, middle, large = (threat.eps for threat in threats)
    # The first stage sees all that the smaller radius left right.
    assert seen["pgd-2", middle] >= right[0]
    # The others see those for whom the larger radius does not answer.
    assert seen["pgd-5", large] >= seen["cw-10", large] >= right[2]
    assert seen["cw-10", middle] >= right[1] - right[2]
    assert not seen["pgd-5", middle] & right[2]
    assert not seen.get(("pgd-5", small), set()) & right[1]


def test_a_curve_says_of_how_many_images_it_infers(robust: Victim, staged: str) -> None:
    plan = EvaluationPlan(
        samples=60,
        classes=robust.model(robust.images[:1]).shape[1],
        attacks=get_attacks(["pgd-5", staged]),
        threats=[THREAT.at(factor * EPS) for factor in (0.0, 0.5, 1.0)],
        costly_positions=np.arange(60),
        seed=0,
        batch_size=60,
    )
    images, labels = robust.images[:60], robust.labels[:60]
    found = plan.outcomes(list(run_shards(robust.model, images, labels, plan.shards(), seed=0)))
    zero, small, large = (found[threat] for threat in plan.threats)
    words = f"{int(large[staged].correct.sum())} of {int(small[staged].correct.sum())} right"
    assert words in small[staged].note
    assert not zero[staged].note
    assert not large[staged].note
    assert not small["pgd-5"].note
