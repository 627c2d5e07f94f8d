"""DeepFool against a hand-computed case, a plain loop, foolbox and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.perturb.deepfool import deepfool, relative_length


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    ).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(6)).double()


def plain(network: nn.Module, image: Tensor, label: int, classes: int = 5) -> Tensor:
    """The algorithm for one image, as the papers write it."""
    first = network(image)[0]
    away = int(first.argmax()) == label
    walked = torch.zeros_like(image)
    for _ in range(5):
        current = (image + 1.02 * walked).requires_grad_(True)
        logits = network(current)[0]
        now = int(logits.argmax())
        if (now != label) if away else (now == label):
            break
        source = label if away else now
        gradients = [
            torch.autograd.grad(logits[k], current, retain_graph=True)[0] for k in range(classes)
        ]
        best = None
        for k in [k for k in range(classes) if k != label] if away else [label]:
            w = gradients[k] - gradients[source]
            length = (w + 5e-6).norm()
            distance = (logits[k] - logits[source]).abs() / length
            if best is None or distance < best[0]:
                best = (distance.detach(), w / length)
        assert best is not None
        walked = walked + best[0] * best[1]
    return (1.02 * walked).detach()


def test_a_linear_network_by_hand() -> None:
    """Two classes, z_1 - z_0 = x_1 + x_2 - 1: the distance is that to the line."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        network[1].bias.copy_(torch.tensor([0.0, -1.0]))
    image = torch.tensor([[[[0.2, 0.2]]]])
    found = deepfool(network, image)
    expected = 1.02 * torch.tensor([[[[0.3, 0.3]]]])
    torch.testing.assert_close(found.perturbation, expected, atol=1e-4, rtol=0)
    ratio = 1.02 * 0.3 / 0.2
    assert float(relative_length(found.perturbation, image)) == pytest.approx(ratio, rel=1e-3)


def test_equals_a_loop_over_the_images(network: nn.Module, images: Tensor) -> None:
    labels = network(images).argmax(dim=1)
    labels[::3] = (labels[::3] + 1) % 5
    found = deepfool(network, images, labels)
    for n in range(9):
        expected = plain(network, images[n : n + 1], int(labels[n]))
        torch.testing.assert_close(found.perturbation[n], expected[0], atol=1e-5, rtol=1e-4)
    moved = network(images + found.perturbation).argmax(dim=1)
    correct = network(images).argmax(dim=1) == labels
    assert bool((moved[correct] != labels[correct]).all())
    assert torch.equal(moved[~correct], labels[~correct])


def test_few_candidates_are_the_likeliest(network: nn.Module, images: Tensor) -> None:
    found = deepfool(network, images, candidates=1)
    logits = network(images)
    second = logits.topk(2, dim=1).indices[:, 1]
    assert torch.equal(network(images + found.perturbation).argmax(dim=1), second)
    # A pass a step, and one more, in which it is seen that it has crossed.
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    alone = []
    for image in images:
        seen.clear()
        deepfool(network, image[None], candidates=1)
        alone.append(len(seen))
    seen.clear()
    deepfool(network, images, candidates=1)
    assert min(alone) + 1 < max(alone)
    assert sum(seen) == sum(alone)


def test_the_gradient_through_the_steps_is_that_of_differences(
    network: nn.Module, images: Tensor
) -> None:
    """Of the relative length with respect to a weight, against a central difference."""
    labels = network(images).argmax(dim=1)
    labels[::3] = (labels[::3] + 1) % 5

    def value() -> Tensor:
        found = deepfool(network, images, labels, differentiable=True)
        return relative_length(found.perturbation, images).sum()

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(value(), parameters)
    generator = torch.Generator().manual_seed(7)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator).double()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-6 * direction)
            sides.append(float(value().detach()))
            with torch.no_grad():
                parameter.sub_(sign * 1e-6 * direction)
        slope = (sides[0] - sides[1]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2, abs=1e-4)


def test_is_no_longer_than_foolbox(network: nn.Module, images: Tensor) -> None:
    foolbox = pytest.importorskip("foolbox")
    network = network.float().eval()
    images, labels = images.float(), network(images.float()).argmax(dim=1)
    attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=None)
    model = foolbox.PyTorchModel(network, bounds=(-100, 100))
    theirs = attack.run(model, images, labels) - images
    ours = deepfool(network, images, steps=50).perturbation
    torch.testing.assert_close(
        ours.flatten(1).norm(dim=1), theirs.flatten(1).norm(dim=1), rtol=1e-2, atol=1e-4
    )
