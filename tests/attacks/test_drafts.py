"""Searches that look with a cheaper network than the one that they attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dynat_ray.acceleration import precision
from dynat_ray.attacks.drafts import Draft, draft_of, drafts_status, takes_draft
from dynat_ray.attacks.fab import TargetedFab
from dynat_ray.attacks.registry import get_attack, get_attacks
from dynat_ray.attacks.square import Square
from dynat_ray.attacks.stages import Setting, Stage
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.models import Classifier
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim

THREAT = Threat("Linf", EPS)
SEARCHES = [Square(queries=200), TargetedFab()]


class _AlwaysFooled(nn.Module):
    """Says of every image that it may be of any class, and counts how often it was asked."""

    asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        return images.flatten(1).sum(dim=1, keepdim=True) * torch.zeros(10)


class _Backbone(nn.Module):
    """A network's layers as timm has them: all but the last, and the last."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.forward_features, self.forward_head = layers[:-1], layers[-1]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.forward_head(self.forward_features(images))
        return logits


@pytest.fixture
def classifier(robust: Victim) -> Classifier:
    assert isinstance(robust.model, nn.Sequential)
    backbone = _Backbone(robust.model)
    made = Classifier(
        backbone, name="victim", arguments={}, num_classes=10, size=(8, 8), mean=[0.0], std=[1.0]
    )
    return made.eval()


def _right(victim: Victim, count: int) -> tuple[Tensor, Tensor]:
    right = (victim.model(victim.images).argmax(dim=1) == victim.labels).nonzero().squeeze(1)
    return victim.images[right[:count]], victim.labels[right[:count]]


@pytest.fixture
def multiplying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this machine multiply bf16, were it ten times slower."""
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: True)


@pytest.mark.parametrize("stage", SEARCHES, ids=lambda stage: stage.name)
def test_an_exact_draft_changes_nothing(robust: Victim, few_iterations: int, stage: Stage) -> None:
    images, labels = _right(robust, 24)
    alone = Setting(threat=THREAT, classes=10, seed=3)
    drafted = Setting(threat=THREAT, classes=10, seed=3, draft=robust.model)
    expected = stage.perturb(robust.model, images, labels, alone)
    fallen = robust.model(expected).argmax(dim=1) != labels
    assert 0 < fallen.sum() < len(labels)
    torch.testing.assert_close(
        stage.perturb(robust.model, images, labels, drafted), expected, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("stage", SEARCHES, ids=lambda stage: stage.name)
def test_a_search_goes_on_where_only_the_draft_is_fooled(
    robust: Victim, few_iterations: int, stage: Stage
) -> None:
    images, labels = _right(robust, 24)
    draft = _AlwaysFooled()
    at = Setting(threat=THREAT, classes=10, seed=3, draft=draft)
    found = stage.perturb(robust.model, images, labels, at)
    assert (robust.model(found).argmax(dim=1) == labels).any()
    # Once at the start and at every query; or twice an iteration for each of nine classes.
    assert draft.asked == (201 if isinstance(stage, Square) else 9 * few_iterations * 2)


def test_a_draft_is_near_the_model_and_of_no_use_in_too_small_a_ball(
    robust: Victim, classifier: Classifier, multiplying: None
) -> None:
    model = classifier
    images, labels = _right(robust, 24)
    draft = draft_of(model, images, labels, EPS)
    assert draft is not None
    with torch.no_grad():
        exact, near = model(images), draft(images)
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert float((exact - near).abs().max()) < 0.05 * float(exact.std())
    assert draft_of(model, images, labels, EPS / 1000) is None


def test_logits_of_a_draft_are_not_rounded(
    robust: Victim, classifier: Classifier, multiplying: None
) -> None:
    images, labels = _right(robust, 24)
    draft = draft_of(classifier, images, labels, EPS)
    assert draft is not None
    logits = draft(images)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_where_there_is_no_draft(
    robust: Victim,
    classifier: Classifier,
    monkeypatch: pytest.MonkeyPatch,
    multiplying: None,
) -> None:
    images, labels = _right(robust, 8)
    stranger = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    assert draft_of(stranger, images, labels, EPS) is None
    cpu = torch.device("cpu")
    assert drafts_status(classifier, "Linf", cpu) == "on"
    assert drafts_status(classifier, "L2", cpu) == "unavailable: there are none under L2"
    assert drafts_status(stranger, "Linf", cpu) == "unavailable: the model is not one of ours"
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: False)
    assert draft_of(classifier, images, labels, EPS) is None
    assert drafts_status(classifier, "Linf", cpu).startswith("unavailable: the device")


def test_an_evaluation_with_drafts_finds_the_same(
    robust: Victim,
    classifier: Classifier,
    multiplying: None,
    few_iterations: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = robust.images[:24], robust.labels[:24]
    asked = []
    forward = Draft.forward

    def watched(self: Draft, images: Tensor) -> Tensor:
        asked.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Draft, "forward", watched)
    outcomes = {}
    for drafts in (False, True):
        asked.clear()
        found = evaluate_attacks(classifier, images, labels, ["fab-t"], THREAT, drafts=drafts)
        outcomes[drafts] = found["fab-t"].correct
        assert bool(asked) == drafts
    assert 0 < outcomes[True].sum() < len(labels)
    assert (outcomes[True] != outcomes[False]).sum() <= 1


def test_which_stages_take_drafts() -> None:
    taking = [stage.name for stage in get_attack("autoattack").stages if takes_draft(stage)]
    assert taking == ["fab-t", "square"]


@pytest.mark.parametrize(("attack", "said"), [("autoattack-sampled", True), ("apgd-t", False)])
def test_an_evaluation_is_known_by_its_drafts(attack: str, said: bool) -> None:
    plan = EvaluationPlan(
        samples=4,
        classes=10,
        attacks=get_attacks([attack]),
        threats=[THREAT],
        costly_positions=np.arange(4),
        seed=0,
        batch_size=4,
        drafts=True,
    )
    assert ("drafts" in plan.settings()) == said
    assert all(shard.drafts for shard in plan.shards())
