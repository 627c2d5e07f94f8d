"""IAAT's budgets against a loop over samples and epochs, and the memory they live in."""

from __future__ import annotations

import pytest
import torch

from dynat_ray import keyed_random
from dynat_ray.data import Batch
from dynat_ray.methods.sample_memory import SampleMemory
from dynat_ray.models import Classifier
from tests.methods.cases import KEYS, make


def test_budgets_follow_what_samples_withstand(network: Classifier, batch: Batch) -> None:
    # A quarter an epoch in the nine after the warm-up.
    method = make("iaat", warmup=0.1, warmup_accuracy=0.0, gamma=0.5, rate=0.25 * 9)
    network.eval()
    right = network(batch.images).argmax(dim=1) == batch.labels
    ratios = [1.0 if each else 0.0 for each in right]

    method.start_epoch(0, 0.0)
    assert method.prepare(network, batch, KEYS).record["eps"].tolist() == [
        float(torch.tensor(0.2 * ratio)) for ratio in ratios
    ]
    grown = shrunk = 0
    for epoch in range(1, 6):
        method.start_epoch(epoch, epoch / 10)
        prepared = method.prepare(network, batch, KEYS)
        for n in range(12):
            old, image, label = ratios[n], batch.images[n : n + 1], batch.labels[n : n + 1]
            one = Batch(image, label, batch.indices[n : n + 1])
            new = old - 0.5
            for number, tried in ((1, old), (2, old + 0.5)):
                keys = keyed_random.combine(KEYS[n : n + 1], number)
                found = method.attack(network, one, keys, "ce", ratios=torch.tensor([tried]))
                if network(found.images).argmax() == label:
                    new = tried
            grown, shrunk = grown + (new > old), shrunk + (new < old)
            new = max(new, 0.0) if right[n] else 0.0
            ratios[n] = 0.25 * new + 0.75 * old
        torch.testing.assert_close(prepared.record["eps"], 0.2 * torch.tensor(ratios))
    assert grown
    assert shrunk


@pytest.mark.parametrize(("epochs", "rate"), [(110, 0.1), (20, 10 / 18.2), (6, 1.0)])
def test_budgets_are_replaced_as_often_over_in_runs_of_any_length(epochs: int, rate: float) -> None:
    method = make("iaat")
    for epoch in (2, epochs - 1):
        method.start_epoch(epoch, epoch / epochs)
        assert method._rate == pytest.approx(rate, rel=0.01)


def test_the_warm_up_lasts_until_half_is_right(network: Classifier, batch: Batch) -> None:
    network.eval()
    right = network(batch.images).argmax(dim=1) == batch.labels
    method = make("iaat", warmup=0.0, warmup_accuracy=float(right.float().mean()))
    for epoch, warming in ((0, True), (1, False)):
        method.start_epoch(epoch, epoch / 6)
        method.prepare(network, batch, KEYS)
        assert method._warming == warming
    one_more = make("iaat", warmup=0.0, warmup_accuracy=float((right.sum() + 1) / 12))
    one_more.start_epoch(0, 0.0)
    one_more.prepare(network, batch, KEYS)
    resumed = make("iaat", warmup=0.0, warmup_accuracy=float(right.float().mean()))
    resumed.load_state_dict(one_more.state_dict())
    for each, warming in ((one_more, True), (resumed, False)):
        each.start_epoch(1, 1 / 6)
        assert each._warming == warming


def test_memory_is_read_from_the_next_epoch_on() -> None:
    memory = SampleMemory(4, initial=1.0)
    memory.start_epoch(0)
    memory.write(torch.tensor([1, 2]), torch.tensor([0.5, 0.25]))
    assert memory.read(torch.arange(4)).tolist() == [1, 1, 1, 1]
    memory.start_epoch(1)
    assert memory.read(torch.tensor([2, 1, 0])).tolist() == [0.25, 0.5, 1]
    memory.start_epoch(1)
    memory.write(torch.tensor([3]), torch.tensor([3.0]))
    memory.start_epoch(2)
    assert memory.read(torch.tensor([1, 3])).tolist() == [0.5, 3]


def test_a_sample_drawn_twice_remembers_the_mean_and_extra_images_nothing() -> None:
    memory = SampleMemory(2, initial=1.0)
    memory.write(torch.tensor([0, 0, 7]), torch.tensor([0.2, 0.4, 9.0]))
    memory.start_epoch(0)
    torch.testing.assert_close(memory.read(torch.tensor([0, 1, 7])), torch.tensor([0.3, 1.0, 1.0]))


def test_what_is_not_finite_is_not_remembered() -> None:
    memory = SampleMemory(3, initial=1.0)
    memory.start_epoch(0)
    bad = torch.tensor([float("nan"), float("inf"), 0.5])
    memory.write(torch.arange(3), bad)
    assert memory.state_dict()["written"].isfinite().all()
    memory.start_epoch(1)
    assert memory.read(torch.arange(3)).tolist() == [1, 1, 0.5]


def test_memory_survives_a_checkpoint_inside_an_epoch() -> None:
    memory = SampleMemory(3, initial=1.0)
    memory.start_epoch(0)
    memory.write(torch.tensor([0]), torch.tensor([0.5]))
    memory.start_epoch(1)
    memory.write(torch.tensor([1]), torch.tensor([0.25]))
    resumed = SampleMemory(3, initial=1.0)
    resumed.load_state_dict(memory.state_dict())
    resumed.start_epoch(1)
    assert resumed.read(torch.arange(3)).tolist() == [0.5, 1, 1]
    resumed.start_epoch(2)
    assert resumed.read(torch.arange(3)).tolist() == [0.5, 0.25, 1]
