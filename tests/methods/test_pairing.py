"""HAT, ALP and AALP against the plainest code for their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.methods.aalp import contributions, keep_probabilities
from dynat_ray.methods.features import by_channel, channel_axis, per_channel
from dynat_ray.models import Classifier, build_model, save_model
from tests.methods.cases import KEYS, loss_of, make, require_equal, tiny_classifier


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_hat(network: Classifier, batch: Batch, smoothing: float) -> None:
    """Smoothing is of the data's labels; the helper's are its own word."""
    method = make("hat", smoothing, standard_model="anywhere")
    torch.manual_seed(8)
    method._standard = helper = tiny_classifier()
    loss, prepared = loss_of(method, network, batch)
    x, attacked = batch.images, prepared.adversarial
    helper.eval()
    helper_labels = helper(attacked).argmax(dim=1)
    clean, robust, far = (network(each) for each in (x, attacked, x + 2 * (attacked - x)))
    kl = F.kl_div(robust.log_softmax(dim=1), clean.softmax(dim=1), reduction="batchmean")
    expected = (
        F.cross_entropy(clean, batch.labels, label_smoothing=smoothing)
        + 2.5 * kl
        + 0.5 * F.cross_entropy(far, helper_labels)
    )
    require_equal(network, loss, expected)


def test_hat_says_what_is_missing(network: Classifier, tmp_path: object) -> None:
    with pytest.raises(UserError, match=r"method\.standard_model"):
        make("hat").attach(network)
    shape = {"num_classes": 5, "channels": 1, "size": (4, 4), "mean": [0.5], "std": [0.5]}
    save_model(build_model("mlp", **shape), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"\(5, 1, \(4, 4\)\)"):
        make("hat", standard_model=str(tmp_path)).attach(network)


def test_hat_wants_a_model_of_the_same_classes(tmp_path: Path) -> None:
    network = build_model("mlp", num_classes=3, channels=1, size=(4, 4), mean=[0.5], std=[0.5])
    names = [f"class {number}" for number in range(network.num_classes)]
    network.label_names = tuple(names)
    save_model(network, tmp_path)
    make("hat", standard_model=str(tmp_path)).attach(network)
    network.label_names = tuple(reversed(names))
    with pytest.raises(UserError, match=r"class 0 of method\.standard_model .* is 'class 0', and"):
        make("hat", standard_model=str(tmp_path)).attach(network)


def test_alp(network: Classifier, batch: Batch) -> None:
    """As the authors' code: one batch of both halves, `mean_squared_error` of their logits."""
    loss, prepared = loss_of(make("alp", pairing=0.3, clean_share=0.25), network, batch)
    logits = network(torch.cat([batch.images, prepared.adversarial]))
    clean, attacked = logits[:12], logits[12:]
    expected = (
        0.75 * F.cross_entropy(attacked, batch.labels)
        + 0.25 * F.cross_entropy(clean, batch.labels)
        + 0.3 * F.mse_loss(clean, attacked)
    )
    require_equal(network, loss, expected)


def test_aalp_weighs_pairs_by_the_adversarial_confidence(network: Classifier, batch: Batch) -> None:
    method = make("aalp", guided_dropout=False, pairing=0.3, clean_share=0.25)
    method.attach(network)
    loss, prepared = loss_of(method, network, batch)
    clean, attacked = network(torch.cat([batch.images, prepared.adversarial])).chunk(2)
    expected = 0.75 * F.cross_entropy(attacked, batch.labels)
    expected = expected + 0.25 * F.cross_entropy(clean, batch.labels)
    for n, label in enumerate(batch.labels):
        weight = attacked[n].softmax(dim=0)[label].detach()
        expected = expected + 0.3 / 12 * weight * F.mse_loss(clean[n], attacked[n])
    require_equal(network, loss, expected)


def test_contributions_are_what_the_logit_loses_without_a_channel(
    network: Classifier, batch: Batch
) -> None:
    """The tiny head is linear, so feature times gradient is exact."""
    network.eval()
    found = contributions(network, batch.images, batch.labels, axis=1)
    features = network.features(batch.images).detach()
    whole = network.head(features)
    for channel in range(6):
        less = features.clone()
        less[:, channel] = 0
        lost = (whole - network.head(less)).gather(1, batch.labels[:, None]).squeeze(1)
        torch.testing.assert_close(found[:, channel], lost.detach(), rtol=1e-3, atol=1e-3)


def test_aalp_drops_the_same_channels_of_both_images(network: Classifier, batch: Batch) -> None:
    method = make("aalp", min_keep=0.3, weights=False, pairing=0.3, clean_share=0.0)
    method.attach(network)
    loss, prepared = loss_of(method, network, batch)
    mask = prepared.extras["mask"]
    assert bool((mask == 0).any())
    features = network.features(torch.cat([batch.images, prepared.adversarial]))
    logits = network.head(features * torch.cat([mask, mask])[:, :, None, None]).chunk(2)
    expected = F.cross_entropy(logits[1], batch.labels) + 0.3 * F.mse_loss(*logits)
    require_equal(network, loss, expected)


def test_dropout_keeps_the_mean_and_the_best_channel() -> None:
    contribution = torch.tensor([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]])
    keep = keep_probabilities(contribution, 0.2)
    torch.testing.assert_close(keep, torch.tensor([[0.2, 0.4, 1.0], [0.2, 0.2, 0.2]]))


@pytest.mark.parametrize(
    ("name", "axis"), [("mlp", 1), ("preact_resnet10", 1), ("vit_tiny_patch16_224", 2)]
)
def test_the_channels_of_any_model_are_found(name: str, axis: int) -> None:
    network = build_model(
        name, num_classes=3, channels=3, size=(16, 16), mean=[0.5] * 3, std=[0.5] * 3
    )
    assert channel_axis(network) == axis
    features = network.features(torch.rand(2, 3, 16, 16))
    values = torch.rand(2, network.backbone.num_features)
    times = features * per_channel(values, axis, features.dim())
    torch.testing.assert_close(
        by_channel(times, axis).sum(dim=2), values * by_channel(features, axis).sum(dim=2)
    )


def test_keys_decide_the_mask(network: Classifier, batch: Batch) -> None:
    method = make("aalp", min_keep=0.3)
    method.attach(network)
    one, again, other = (
        method.prepare(network, batch, keys).extras["mask"] for keys in (KEYS, KEYS, KEYS + 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
