"""FAT (Zhang et al., "Attacks which do not kill training make adversarial learning stronger",
ICML 2020): friendly adversarial examples, from an attack that stops `tau` steps after it has won.

Ours: `tau` rises at parts of the run (the authors' epochs 50 and 90 of 120).
"""

from __future__ import annotations

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.budgets import FATSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.perturb.running import StopRule


@register
class FAT(Method[FATSettings]):
    """PGD-AT with an attack that goes no further than `tau` steps beyond the boundary."""

    settings_class = FATSettings

    @property
    def tau(self) -> int:
        """Steps that a misclassified sample still makes in this epoch."""
        return sum(self.progress >= mark for mark in self.settings.tau_milestones)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        # Whatever is misclassified at its starting point may stop there.
        stop = StopRule(margin=0.0, min_steps=0, patience=self.tau)
        noise = self.settings.step_noise
        outcome = self.attack(network, batch, keys, "ce", stop=stop, step_noise=noise)
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        return adversarial_loss(self, network, prepared)
