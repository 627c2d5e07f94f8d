"""The attack benchmark: both find the same, in as many rounds as were asked for."""

from __future__ import annotations

import pytest
import torch

from dynat_ray.benchmarks import attack_time


def test_each_goes_first_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 10))
    pixels = torch.rand(4, 3, 4, 4)
    labels = network(pixels).argmax(dim=1)
    order: list[str] = []

    def seconds_of(call: object, device: str) -> float:
        order.append(call.__name__)  # type: ignore[attr-defined]
        if len(order) < 3:
            call()  # type: ignore[operator]
        return float(len(order))

    monkeypatch.setattr(attack_time, "seconds_of", seconds_of)
    case, ratios = attack_time._time(network, pixels, labels, 1e-6, 2, "cpu")
    assert order == ["theirs", "ours", "ours", "theirs"]
    assert ratios == [1 / 2, 4 / 3]
    assert case["agreement"] == case["still_right"] == 1
