"""TRADES (Zhang et al., "Theoretically principled trade-off between robustness and accuracy",
ICML 2019)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import TRADESSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.perturb.objectives import kl_divergence


@register
class TRADES(Method[TRADESSettings]):
    """Minimises `CE(f(x), y) + beta KL(p(x) || p(x'))`; the attack maximises the KL."""

    settings_class = TRADESSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        return attacked_by_kl(self, network, batch, keys)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        return trades_loss(self, network, prepared, self.settings.beta)


def attacked_by_kl(method: Method[Any], network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
    """Returns a batch with the images that maximise `KL(p(x) || p(x'))`, and what was seen.

    Args:
        method: Whose attack it is.
        network: What is attacked.
        batch: `B` samples.
        keys: One key `(B,)` per sample for the attack's noise.
    """
    clean_logits = method.clean_logits(network, batch.images)
    outcome = method.attack(network, batch, keys, "kl", clean_logits=clean_logits)
    record = clean_record(clean_logits)
    record |= attack_record(outcome, batch.main_labels, clean_logits)
    return Prepared(batch, outcome.images, record=record)


def trades_loss(
    method: Method[Any], network: nn.Module, prepared: Prepared, beta: float
) -> MethodLoss:
    """Returns `mean CE(f(x), y) + beta mean w KL(p(x) || p(x'))`.

    The gradient flows through both predictions of the KL (detaching the clean one costs several
    points of robust accuracy).

    Args:
        method: For its cross-entropy.
        network: The classifier as it is trained.
        prepared: The attacked batch.
        beta: Weight of the KL term.
    """
    assert prepared.adversarial is not None
    clean_logits = network(prepared.batch.images).float()
    adversarial_logits = network(prepared.adversarial).float()
    return trades_terms(method, prepared, clean_logits, adversarial_logits, beta)


def trades_terms(
    method: Method[Any],
    prepared: Prepared,
    clean_logits: Tensor,
    adversarial_logits: Tensor,
    beta: float,
) -> MethodLoss:
    """Returns what `trades_loss` does from logits `(B, K)`."""
    clean = method.cross_entropies(clean_logits, prepared.batch)
    kl = kl_divergence(clean_logits.log_softmax(dim=1), adversarial_logits.log_softmax(dim=1))
    record = {
        "clean_loss": clean.detach(),
        "adversarial_loss": method.cross_entropies(adversarial_logits.detach(), prepared.batch),
    }
    return MethodLoss(clean.mean() + beta * prepared.weighted_mean(kl), record)
