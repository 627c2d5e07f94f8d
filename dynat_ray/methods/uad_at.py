"""UAD-AT: uncertainty-aware distributional adversarial training (Dong, Qu, Wang and Ong, arXiv
2411.02871).

The abstract names three parts, without formulas: adversaries modelled by the statistics of
adversarial examples and the uncertainty of these statistics; an alignment reference refined by
statistical proximity to clean examples, since aligning to misclassified ones harms; introspective
alignment of the input gradients of both domains, without another model. The realisation is ours:

- Statistics `t(x)` of a sample are the means of every channel of the last features over its places.
  (Standard deviations, which DSU, Li et al., ICLR 2022, also draws, are lost where a head pools.)
- The uncertainty of an adversary's is the standard deviation of `t(x') - t(x)` over the batch of
  all workers: what attacks change, and not what tells classes apart. With probability
  `sample_share` an adversary is drawn: its features move to statistics from that Gaussian.
- Reference `q` of a correct clean sample is its own prediction, through which gradients flow; of a
  misclassified one that of the correct clean sample of its class, in the batch of all workers,
  whose statistics are nearest to the adversarial ones; if there is none, its label.
- Loss: `(1 - clean_share) CE(f(x'), y) + clean_share CE(f(x), y) + alignment KL(q || p(drawn
  adversary)) + gradients (1 - cos(g, g'))`, with the input gradients `g`, `g'` of both images'
  cross-entropies. All passes are in training mode. The attack is PGD-AT's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import unchanged_statistics
from dynat_ray.collectives import gather_over_workers
from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import UADATSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.features import by_channel, channel_axis, feature_shape, per_channel
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.models import Classifier
from dynat_ray.perturb.objectives import kl_divergence

# Of the random numbers that belong to a sample; the attack draws from the ones before.
_CHOICE_STREAM, _STATISTICS_STREAM = 12, 13


@register
class UADAT(Method[UADATSettings]):
    """Matches the distribution of adversarial predictions to that of clean ones."""

    settings_class = UADATSettings
    differentiates_twice = True

    def attach(self, network: Classifier) -> None:
        self._axis = channel_axis(network)
        self._channels = feature_shape(network)[self._axis - 1]

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        choice = keyed_random.uniform(keys, 1, stream=_CHOICE_STREAM) < self.settings.sample_share
        noise = keyed_random.normal(keys, self._channels, stream=_STATISTICS_STREAM) * choice
        return Prepared(batch, outcome.images, record=record, extras={"noise": noise})

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        assert prepared.adversarial is not None
        align = settings.gradients > 0
        images = batch.images.detach().requires_grad_(align)
        adversarial = prepared.adversarial.detach().requires_grad_(align)
        seen: dict[str, Tensor] = {}

        def watch(features: Tensor) -> Tensor:
            seen["clean"] = self.statistics(features)
            return features

        def draw(features: Tensor) -> Tensor:
            seen["adversarial"] = self.statistics(features)
            change = seen["adversarial"] - seen["clean"]
            shift = prepared.extras["noise"] * spread(change)
            shift = per_channel(shift, self._axis, features.dim()).to(features.dtype)
            return torch.cat([features, features + shift])

        clean_logits: Tensor = network(images, watch).float()
        both: Tensor = network(adversarial, draw).float()
        adversarial_logits, drawn_logits = both.chunk(2)
        log_reference = clean_logits.log_softmax(dim=1)
        if settings.refine:
            log_reference = refined_reference(
                log_reference, batch.main_labels, seen["clean"], seen["adversarial"]
            )
        kl = kl_divergence(log_reference, drawn_logits.log_softmax(dim=1))
        clean = self.cross_entropies(clean_logits, batch)
        losses = self.cross_entropies(adversarial_logits, batch)
        record = {
            "predicted": clean_logits.detach().argmax(dim=1),
            "clean_loss": clean.detach(),
            "adversarial_loss": losses.detach(),
            "kl": kl.detach(),
        }
        share = settings.clean_share
        total = (1 - share) * losses.mean() + share * clean.mean()
        total = total + settings.alignment * kl.mean()
        if align:
            # Checkpointed activations are computed again here.
            with unchanged_statistics(network):
                angle = gradient_distance(clean, images, losses, adversarial)
            total = total + settings.gradients * angle.mean()
        return MethodLoss(total, record)

    def statistics(self, features: Tensor) -> Tensor:
        """Returns each sample's statistics `(B, C)`, detached: the means of its channels."""
        return by_channel(features.detach().float(), self._axis).mean(dim=2)


def spread(statistics: Tensor) -> Tensor:
    """Returns the standard deviations `(S,)` of statistics `(B, S)` over all workers' samples."""
    # What one worker's network makes not finite must not become so for all.
    everyone = gather_over_workers(statistics).nan_to_num(0.0, 0.0, 0.0)
    return everyone.std(dim=0, correction=0)


def refined_reference(
    log_probs: Tensor, labels: Tensor, clean: Tensor, adversarial: Tensor
) -> Tensor:
    """Returns logarithms of the references `(B, K)`; only those of correct samples have a gradient.

    Every worker must call this for every batch: references come from all of them.

    Args:
        log_probs: Of the clean predictions, `(B, K)`.
        labels: `(B,)`.
        clean: Statistics `(B, S)` of the clean samples.
        adversarial: Statistics `(B, S)` of their adversarial counterparts.
    """
    everyone = gather_over_workers(log_probs)
    classes, statistics = gather_over_workers(labels), gather_over_workers(clean)
    finite = everyone.isfinite().all(dim=1) & statistics.isfinite().all(dim=1)
    right = (everyone.argmax(dim=1) == classes) & finite
    usable = right[None] & (labels[:, None] == classes[None])
    distance = torch.cdist(adversarial, statistics, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance.masked_fill(~usable, float("inf"))
    nearest = everyone[distance.argmin(dim=1)]
    label = F.one_hot(labels, log_probs.shape[1]).to(log_probs.dtype).clamp(min=1e-12).log()
    other = torch.where(usable.any(dim=1, keepdim=True), nearest, label)
    correct = log_probs.argmax(dim=1, keepdim=True) == labels[:, None]
    return torch.where(correct, log_probs, other)


def gradient_distance(
    losses: Tensor, images: Tensor, other_losses: Tensor, other_images: Tensor
) -> Tensor:
    """Returns `1 - cos` between both domains' input gradients `(B,)`, differentiable again."""
    (one,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
    (other,) = torch.autograd.grad(other_losses.sum(), other_images, create_graph=True)
    return 1 - F.cosine_similarity(one.float().flatten(1), other.float().flatten(1), dim=1)
