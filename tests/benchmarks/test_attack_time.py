"""The attack benchmark: both find the same, in as many rounds as were asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack

from dynat_ray.benchmarks import attack_time
from tests.quick_attack import iterations, square_queries

_QUERIES, _ITERATIONS = 40, 5


@pytest.mark.parametrize("drafts", [True, False])
def test_each_goes_first_in_turn(monkeypatch: pytest.MonkeyPatch, drafts: bool) -> None:
    class Shortened(AutoAttack):
        """With as few Square queries and iterations as ours makes here."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.square.n_queries = _QUERIES
            for attack in (self.apgd, self.apgd_targeted, self.fab):
                attack.n_iter = _ITERATIONS

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 10))
    pixels = torch.rand(4, 3, 4, 4)
    labels = network(pixels).argmax(dim=1)
    order: list[str] = []
    ways = 3 if drafts else 2

    def seconds_of(call: Any, device: str) -> float:
        name = "theirs"
        if isinstance(call, partial):
            name = "drafts" if call.keywords["drafts"] else "float32"
        order.append(name)
        if len(order) <= ways:
            call()
        return float(len(order))

    monkeypatch.setattr(attack_time, "seconds_of", seconds_of)
    monkeypatch.setattr(attack_time, "drafts_status", lambda *_: "on" if drafts else "off")
    monkeypatch.setattr(attack_time, "AutoAttack", Shortened)
    with square_queries(_QUERIES), iterations(_ITERATIONS):
        case, ratios = attack_time._time(network, pixels, labels, 1e-6, 2, "cpu")
    expected = ["theirs", "float32", "drafts"][:ways]
    assert order == [*expected, *reversed(expected)]
    of_drafts = {"": [1 / 3, 6 / 4]} if drafts else {}
    last = 2 * ways
    assert ratios == {" in float32": [1 / 2, last / (last - 1)], **of_drafts}
    assert case["agreement"] == dict.fromkeys(expected[1:], 1.0)
    assert case["still_right"] == 1
