"""UAD-AT: uncertainty-aware distributional adversarial training (Dong, Qu, Wang and Ong, arXiv
2411.02871).

The abstract names three parts, without formulas: adversaries modelled by the statistics of
adversarial examples and the uncertainty of these statistics; an alignment reference refined by
statistical proximity to clean examples, since aligning to misclassified ones harms; introspective
alignment of the input gradients of both domains, without another model. The realisation is ours:

- Statistics of a sample are mean and standard deviation of every channel of the last feature map
  (of a vector, or a map of one pixel: the features themselves). Their uncertainty is their
  variance over the batch of all workers, as in DSU (Li et al., ICLR 2022). Adversaries are drawn by
  giving an adversarial feature map statistics from that Gaussian, with probability `sample_share`.
- Reference `q` of a correct clean sample is its own prediction, through which gradients flow; of a
  misclassified one that of the correct clean sample of its class, in the batch of all workers,
  whose statistics are nearest to the adversarial ones; if there is none, its label.
- Loss: `CE(f(x'), y) + alignment KL(q || p(drawn adversary)) + gradients (1 - cos(g, g'))`, with
  the input gradients `g`, `g'` of both images' cross-entropies. All passes are in training mode.
  The attack is PGD-AT's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import unchanged_statistics
from dynat_ray.collectives import gather_over_workers
from dynat_ray.config import MethodSettings
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.features import feature_shape
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.models import Classifier
from dynat_ray.perturb.objectives import kl_divergence
from dynat_ray.value_types import ClosedUnitInterval, NonNegative

# Of the random numbers that belong to a sample; the attack draws from the ones before.
_CHOICE_STREAM, _STATISTICS_STREAM = 12, 13
# Smallest variance of a channel over its places.
_FLAT = 1e-6


@dataclass(kw_only=True)
class UADATSettings(MethodSettings):
    """Settings of UAD-AT.

    Attributes:
        alignment: Weight of the KL between reference and drawn adversary.
        gradients: Weight of the gradient alignment; 0 spares its second derivatives.
        sample_share: Probability, in [0, 1], that an adversary's statistics are drawn.
        refine: Refine the reference of misclassified samples; off: always the own prediction.
    """

    name: str = "uad_at"
    alignment: NonNegative = 5.0
    gradients: NonNegative = 0.1
    sample_share: ClosedUnitInterval = 0.5
    refine: bool = True


@register
class UADAT(Method[UADATSettings]):
    """Matches the distribution of adversarial predictions to that of clean ones."""

    settings_class = UADATSettings
    ablation = ("alignment=0", "gradients=0", "refine=false")
    differentiates_twice = True

    def attach(self, network: Classifier) -> None:
        shape = feature_shape(network)
        if len(shape) not in (1, 3) or shape[0] != network.backbone.num_features:
            raise UserError(
                "method 'uad_at' needs a model whose features are a map (channels, height, width) "
                f"or a vector; those of '{network.name}' have shape {shape}"
            )
        self._places = 1
        for side in shape[1:]:
            self._places *= side
        self._numbers = shape[0] * (1 if self._places == 1 else 2)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        choice = keyed_random.uniform(keys, 1, stream=_CHOICE_STREAM) < self.settings.sample_share
        noise = keyed_random.normal(keys, self._numbers, stream=_STATISTICS_STREAM) * choice
        return Prepared(batch, outcome.images, record=record, extras={"noise": noise})

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        assert prepared.adversarial is not None
        align = settings.gradients > 0
        images = batch.images.detach().requires_grad_(align)
        adversarial = prepared.adversarial.detach().requires_grad_(align)
        seen: dict[str, Tensor] = {}

        def watch(features: Tensor) -> Tensor:
            seen["clean"] = self.statistics(features).detach()
            return features

        def draw(features: Tensor) -> Tensor:
            seen["adversarial"] = self.statistics(features).detach()
            return torch.cat([features, self.drawn(features, prepared.extras["noise"])])

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
        total = losses.mean() + settings.alignment * kl.mean()
        if align:
            # Checkpointed activations are computed again here.
            with unchanged_statistics(network):
                angle = gradient_distance(clean, images, losses, adversarial)
            total = total + settings.gradients * angle.mean()
        return MethodLoss(total, record)

    def statistics(self, features: Tensor) -> Tensor:
        """Returns each sample's statistics `(B, S)`: means, then standard deviations."""
        if self._places == 1:
            return features.flatten(1).float()
        variance, mean = torch.var_mean(features.float().flatten(2), dim=2, unbiased=False)
        return torch.cat([mean, (variance + _FLAT).sqrt()], dim=1)

    def drawn(self, features: Tensor, noise: Tensor) -> Tensor:
        """Returns features with other statistics: the samples' own plus `noise` uncertainties.

        Args:
            features: `(B, C, H, W)` or `(B, C)`.
            noise: Standard normals `(B, S)`; 0 for samples that stay as they are.
        """
        own = self.statistics(features)
        # What one worker's network makes not finite must not become so for all.
        everyone = gather_over_workers(own).nan_to_num(0.0, 0.0, 0.0)
        uncertainty = everyone.var(dim=0, unbiased=False).sqrt()
        other = own + noise * uncertainty
        if self._places == 1:
            return other.view_as(features).to(features.dtype)
        own_mean, own_deviation = (part[..., None, None] for part in own.chunk(2, dim=1))
        mean, deviation = (part[..., None, None] for part in other.chunk(2, dim=1))
        normal = (features.float() - own_mean) / own_deviation
        return (deviation * normal + mean).to(features.dtype)


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
