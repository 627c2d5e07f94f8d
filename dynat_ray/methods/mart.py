"""MART (Wang et al., "Improving adversarial robustness requires revisiting misclassified examples",
ICLR 2020); constants as in the authors' `mart.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import MARTSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.perturb.objectives import kl_divergence, runner_up


@register
class MART(Method[MARTSettings]):
    """Minimises `BCE(p', y) + beta KL(p || p') (1 - p_y)`; the attack maximises the CE."""

    settings_class = MARTSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce", start="gaussian")
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        clean_logits = network(prepared.batch.images).float()
        adversarial_logits = network(prepared.adversarial).float()
        terms = mart_terms(self, prepared.batch, clean_logits, adversarial_logits)
        loss = terms.boosted.mean() + self.settings.beta * terms.consistency.mean()
        return MethodLoss(loss, terms.record)


@dataclass(frozen=True)
class MARTTerms:
    """The terms of MART's loss.

    Attributes:
        boosted: `CE(p', y) - log(1.0001 - max_{k != y} p'_k)` `(B,)`.
        consistency: `KL(p || p') (1.0000001 - p_y)` `(B,)`.
        record: Per-sample values to record.
    """

    boosted: Tensor
    consistency: Tensor
    record: dict[str, Tensor]


def mart_terms(
    method: Method[Any], batch: Batch, clean_logits: Tensor, adversarial_logits: Tensor
) -> MARTTerms:
    """Returns the boosted cross-entropy and the weighted KL of every sample.

    Args:
        method: For its cross-entropy.
        batch: The labels.
        clean_logits: `(B, K)`, differentiable.
        adversarial_logits: `(B, K)`, differentiable.
    """
    labels = batch.main_labels
    cross_entropies = method.cross_entropies(adversarial_logits, batch)
    competitor = runner_up(adversarial_logits.softmax(dim=1), labels)
    boosted = cross_entropies - (1.0001 - competitor).log()
    clean_log_probs = clean_logits.log_softmax(dim=1)
    kl = kl_divergence(clean_log_probs, adversarial_logits.log_softmax(dim=1))
    true_probs = clean_log_probs.gather(1, labels[:, None]).squeeze(1).exp()
    record = {
        "predicted": clean_logits.detach().argmax(dim=1),
        "clean_loss": method.cross_entropies(clean_logits.detach(), batch),
        "adversarial_loss": cross_entropies.detach(),
        "kl": kl.detach(),
    }
    return MARTTerms(boosted, kl * (1.0000001 - true_probs), record)
