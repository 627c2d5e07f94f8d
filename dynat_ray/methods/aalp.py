"""AALP: adaptive adversarial logit pairing (Wu, Sang, Xu, Zheng and Xu, arXiv 2005.11904, ACM TOMM
2024).

The abstract names two modules on top of ALP, without formulas: Guided Dropout, so that the model
relies on fewer features of high contribution, and sample weights, so that the pairing loss does
not obstruct the classification of the samples it does not fit yet. The realisation is ours:

- Contribution of channel k of the last features: `c_k = sum h_k dz_y / dh_k` over the channel's
  places, on the clean image in eval mode. It is kept with probability
  `q_k = q_min + (1 - q_min) (c_k - min c) / (max c - min c)` and divided by `q_k`; both images of a
  pair get the same mask. Features are dropped in training only.
- The pairing loss of a sample weighs `w = p_y(x')`, detached: pairing acts once the adversarial
  image is (nearly) classified.
- Loss: `(1 - s) mean CE(f(x'), y) + s mean CE(f(x), y) + lambda mean w (z(x) - z(x'))^2`, with
  ALP's `s` and lambda; the last mean is over samples and classes, and both images of a pair are in
  one batch, as in ALP.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import frozen
from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import AALPSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.features import by_channel, channel_axis, per_channel
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.models import Classifier

# Of the random numbers that belong to a sample; the attack draws from the ones before.
_MASK_STREAM = 11


@register
class AALP(Method[AALPSettings]):
    """Logit pairing with guided dropout and sample weights."""

    settings_class = AALPSettings

    def attach(self, network: Classifier) -> None:
        self._axis = channel_axis(network)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        extras = {}
        if self.settings.guided_dropout:
            with frozen(network, self.context.attack.batch_norm):
                contribution = contributions(network, batch.images, batch.main_labels, self._axis)
            keep = keep_probabilities(contribution, self.settings.min_keep)
            drawn = keyed_random.uniform(keys, keep.shape[1], stream=_MASK_STREAM)
            extras["mask"] = (drawn < keep) / keep
        return Prepared(batch, outcome.images, record=record, extras=extras)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        mask = prepared.extras.get("mask")

        def drop(features: Tensor) -> Tensor:
            assert mask is not None
            twice = torch.cat([mask, mask])
            return features * per_channel(twice, self._axis, features.dim()).to(features.dtype)

        assert prepared.adversarial is not None
        images = torch.cat([batch.images, prepared.adversarial])
        both: Tensor = network(images, None if mask is None else drop).float()
        clean_logits, adversarial_logits = both.chunk(2)
        clean = self.cross_entropies(clean_logits, batch)
        adversarial = self.cross_entropies(adversarial_logits, batch)
        distance = (clean_logits - adversarial_logits).square().mean(dim=1)
        weights = torch.ones_like(distance)
        if settings.weights:
            probs = adversarial_logits.detach().softmax(dim=1)
            weights = probs.gather(1, batch.main_labels[:, None]).squeeze(1)
        record = {
            "weight": weights,
            "predicted": clean_logits.detach().argmax(dim=1),
            "clean_loss": clean.detach(),
            "adversarial_loss": adversarial.detach(),
        }
        share = settings.clean_share
        classification = (1 - share) * adversarial.mean() + share * clean.mean()
        pairing = settings.pairing * (weights * distance).mean()
        return MethodLoss(classification + pairing, record)


def contributions(network: nn.Module, images: Tensor, labels: Tensor, axis: int) -> Tensor:
    """Returns `sum h_k dz_y / dh_k` of every channel k, `(B, C)`, detached.

    Args:
        network: A `Classifier` whose parameters are frozen.
        images: `(B, C, H, W)` in [0, 1].
        labels: `y`, `(B,)`.
        axis: Of the channels in its features.
    """
    seen: list[Tensor] = []

    def watch(features: Tensor) -> Tensor:
        seen.append(features.detach().requires_grad_(True))
        return seen[0]

    with torch.enable_grad():
        logits = network(images, watch)
        total = logits.gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(total, seen[0])
    return by_channel((seen[0].detach() * gradient).float(), axis).sum(dim=2)


def keep_probabilities(contribution: Tensor, least: float) -> Tensor:
    """Returns probabilities `(B, C)` that rise from `least` to 1 with the contribution."""
    low, high = contribution.amin(dim=1, keepdim=True), contribution.amax(dim=1, keepdim=True)
    rank = (contribution - low) / (high - low).clamp(min=1e-12)
    return least + (1 - least) * rank
