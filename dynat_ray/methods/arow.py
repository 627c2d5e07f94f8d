"""ARoW: anti-robust weighted regularisation (Yang, Kong and Kim, "Improving adversarial robustness
by putting more regularizations on less robust samples", ICML 2023); constants and random start as
in the authors' code, whose `lamb` is `beta` here (the paper's lambda is half of it).
"""

from __future__ import annotations

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import ARoWSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.perturb.objectives import kl_divergence


@register
class ARoW(Method[ARoWSettings]):
    """Minimises `CE(f(x), y) + beta KL(p || p') (1 - p'_y)`; the attack maximises the KL.

    The factor `1 - p'_y` is not detached: it pulls the adversarial prediction towards the label.
    """

    settings_class = ARoWSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        clean_logits = self.clean_logits(network, batch.images)
        outcome = self.attack(
            network, batch, keys, "kl", start="uniform", clean_logits=clean_logits
        )
        record = clean_record(clean_logits)
        record |= attack_record(outcome, batch.main_labels, clean_logits)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        batch, labels = prepared.batch, prepared.batch.main_labels
        clean_logits = network(batch.images).float()
        adversarial_logits = network(prepared.adversarial).float()
        clean = self.cross_entropies(clean_logits, batch, self.settings.label_smoothing)
        log_probs = adversarial_logits.log_softmax(dim=1)
        kl = kl_divergence(clean_logits.log_softmax(dim=1), log_probs)
        lacking = 1 - log_probs.gather(1, labels[:, None]).squeeze(1).exp()
        record = {
            "clean_loss": clean.detach(),
            "adversarial_loss": self.cross_entropies(adversarial_logits.detach(), batch),
        }
        return MethodLoss(clean.mean() + self.settings.beta * (kl * lacking).mean(), record)
