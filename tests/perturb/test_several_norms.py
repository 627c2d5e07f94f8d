"""Training attacks under several norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.config import ThreatConfig
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.methods import build_method
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import StopRule
from dynat_ray.perturb.several_norms import Combination, SeveralNorms
from dynat_ray.perturb.threat import Threat
from tests.methods.cases import loss_of, make, tiny_classifier

THREATS = (Threat("Linf", 0.1), Threat("L2", 0.5), Threat("L1", 1.5))


def several(combination: Combination, **settings: object) -> SeveralNorms:
    attacks = [PGD(threat=t, steps=4, step_size=t.eps / 3, **settings) for t in THREATS]  # type: ignore[arg-type]
    return SeveralNorms(tuple(attacks), combination)


@pytest.fixture
def inputs() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    return tiny_classifier().eval(), torch.rand(60, 1, 4, 4), torch.randint(4, (60,))


def test_random_draws_a_norm_for_each_sample(inputs: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = inputs
    ratios, keys = torch.linspace(0.5, 1.5, 60), torch.arange(60)
    stop = StopRule(margin=0.2, applies=torch.arange(60) % 2 == 0)
    found = several("random", stop=stop)(
        network, images, labels, ratios=ratios, clean_logits=None, keys=keys
    )
    torch.testing.assert_close(found.eps, 0.1 * ratios)
    chosen = []
    for n in range(60):
        row = slice(n, n + 1)
        own = replace(stop, applies=stop.applies[row]) if stop.applies is not None else stop
        alone = [
            replace(a, stop=own)(
                network, images[row], labels[row], ratios=ratios[row], keys=keys[row]
            )
            for a in several("random").attacks
        ]
        same = [torch.allclose(a.images[0], found.images[n], atol=1e-5) for a in alone]
        assert any(same)
        chosen.append(same.index(True))
        assert int(alone[chosen[-1]].steps) == int(found.steps[n])
    assert all(10 < chosen.count(place) < 32 for place in range(3))


@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_max_takes_the_worst(inputs: tuple[nn.Module, Tensor, Tensor], objective: str) -> None:
    network, images, labels = inputs
    clean = network(images).detach()
    keys = torch.arange(60)
    attack = several("max", objective=objective)
    found = attack(network, images, labels, ratios=1.0, clean_logits=clean, keys=keys)

    def score(changed: Tensor) -> Tensor:
        logits = network(changed).detach()
        if objective == "ce":
            return F.cross_entropy(logits, labels, reduction="none")
        return F.kl_div(
            logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True
        ).sum(dim=1)

    each = [
        score(a(network, images, labels, clean_logits=clean, keys=keys).images)
        for a in attack.attacks
    ]
    torch.testing.assert_close(score(found.images), torch.stack(each).amax(dim=0))
    assert len(torch.stack(each).argmax(dim=0).unique()) > 1


@pytest.mark.parametrize("name", ["dynat", "pgd_at", "fat", "trades"])
@pytest.mark.parametrize("combination", ["random", "max"])
def test_methods_train_under_several_norms(name: str, combination: Combination) -> None:
    torch.manual_seed(0)
    network = tiny_classifier()
    images = torch.rand(12, 1, 4, 4)
    labels = network.eval()(images).argmax(dim=1)
    batch = Batch(images, labels, torch.arange(12))
    plain = make(name)
    growth = ThreatConfig(eps=0.2, norms=["L2:1.2"], combination=combination)
    context = replace(plain.context, growth=growth, further=(Threat("L2", 1.2),))
    loss, step = loss_of(build_method(plain.settings, context), network, batch)
    loss.backward()
    change = step.adversarial - images
    budgets = step.record["eps"] / 0.2
    linf = Threat("Linf", 1.0).sizes(change) <= 0.2 * budgets + 1e-5
    l2 = Threat("L2", 1.0).sizes(change) <= 1.2 * budgets + 1e-5
    assert bool((linf | l2).all())
    assert not bool(linf.all())


@pytest.mark.parametrize("norms", [["L2"], ["L3:1"], ["Linf:0.1"], ["L2:1", "L2:2"], ["L2:0"]])
def test_norms_that_do_not_go_together(norms: list[str]) -> None:
    with pytest.raises(
        UserError, match="threat.norms has '.*'; each must be one of L2, L1, given once"
    ):
        ThreatConfig(norms=norms)
