"""The loops of the step benchmark really train, and are compared as the report says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynat_ray.benchmarks import accuracy, loops, our_loop, step_time
from dynat_ray.benchmarks.reference_loops import AttackSettings

SHORT = AttackSettings(steps=2, step_size=4 / 255)


def test_the_references_are_all_there() -> None:
    assert loops.LOOPS == ("ours", "ours_float32", "robust_overfitting", "torchattacks", "art")


@pytest.mark.parametrize("name", loops.LOOPS)
def test_a_loop_learns_its_batch(name: str) -> None:
    model = our_loop.classifier(base_width=8, seed=0, shape=(3, 16, 16))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 3, 16, 16, generator=generator)
    labels = torch.arange(20) % 10
    train = loops.make_step(name, model, our_loop.sgd(model), SHORT, compiled=False)
    torch.manual_seed(0)
    for _ in range(15):
        train(images, labels)
    # On the batch's own statistics: running ones lag behind so few steps.
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model.float().train()(images), labels)
    assert float(loss) < 2.0  # from 2.3


def test_an_attack_that_does_nothing_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    batch = our_loop.random_batch(8, "cpu")
    raised = step_time._require_attack(*batch, compiled=False, width=16)
    assert raised["ours"] == pytest.approx(raised["ours_float32"], rel=0.1)
    assert raised["ours"] > 0

    monkeypatch.setattr(step_time, "_raised_loss", lambda *args, **_: float(args[2] == "float32"))
    with pytest.raises(RuntimeError, match="does not work"):
        step_time._require_attack(*batch, compiled=False)


def test_equal_steps_are_compared_in_pairs(digits: Path) -> None:
    found = accuracy.compare_accuracy(digits, steps=3, seeds=2, samples=20)
    ours, theirs = (found["pgd_20_accuracy"][name] for name in ("ours", "robust_overfitting"))
    assert len(ours) == len(theirs) == 2
    paired = found["difference"]["ours"]
    assert paired["mean"] == pytest.approx(sum(ours) / 2 - sum(theirs) / 2, abs=0.01)
    assert paired["interval"][0] <= paired["mean"] <= paired["interval"][1]
