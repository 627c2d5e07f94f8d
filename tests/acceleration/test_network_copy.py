"""A copy shares what it is told to share, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from dynat_ray.acceleration.network_copy import copied


def network() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU()))
    model.register_forward_pre_hook(lambda *_: None)
    return model.eval()


def test_it_is_another_network_that_does_the_same() -> None:
    model, images = network(), torch.rand(2, 3, 5, 5)
    copy = copied(model)
    assert torch.equal(copy(images), model(images))
    assert len(copy._forward_pre_hooks) == 1
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert own.isdisjoint(id(tensor) for tensor in (*copy.parameters(), *copy.buffers()))
    for one, other in zip(model.modules(), copy.modules(), strict=True):
        assert one is not other
        assert type(one) is type(other)
        for name, value in vars(one).items():
            assert not isinstance(value, dict) or vars(other)[name] is not value, name


def test_a_hook_of_one_is_none_of_the_other() -> None:
    model = network()
    copy = copied(model)
    seen = []
    copy[1].register_forward_hook(lambda *_: seen.append("copy"))
    model(torch.rand(1, 3, 5, 5))
    assert not seen
    copy(torch.rand(1, 3, 5, 5))
    assert seen == ["copy"]


def test_it_has_shared_tensors_itself() -> None:
    model = network()
    copy = copied(model, [model[0].weight])
    assert copy[0].weight is model[0].weight
    assert copy[0].bias is not model[0].bias
