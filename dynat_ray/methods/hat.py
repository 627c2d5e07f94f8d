"""HAT: helper-based adversarial training (Rade and Moosavi-Dezfooli, "Reducing excessive margin to
achieve a better accuracy vs. robustness trade-off", ICLR 2022); constants as in the authors' code.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.acceleration.modes import frozen
from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.method_settings.pairing import HATSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.methods.trades import trades_loss
from dynat_ray.models import Classifier, load_model
from dynat_ray.models.label_names import first_difference


@register
class HAT(Method[HATSettings]):
    """TRADES plus `gamma CE(f(x_h), y_h)`, `x_h = x + h (x' - x)`, `y_h = argmax f_std(x')`.

    `f_std` is a frozen model without robustness: where it changes its mind, far along the attack's
    way, the class may change too, so margins need not grow without end. Like the authors' code,
    `x_h` is not clamped to [0, 1].
    """

    settings_class = HATSettings

    def attach(self, network: Classifier) -> None:
        folder = self.settings.standard_model
        if not folder:
            raise UserError(
                "method 'hat' needs a model without robustness beside it: train one with "
                "--method.name standard and give its folder as --method.standard_model"
            )
        standard = load_model(folder)
        described = (standard.num_classes, standard.channels, standard.size)
        if described != (network.num_classes, network.channels, network.size):
            raise UserError(
                f"method.standard_model {folder} was made for (classes, channels, size) "
                f"{described}, this run's model for "
                f"{(network.num_classes, network.channels, network.size)}"
            )
        if other := first_difference(standard.label_names, network.label_names):
            raise UserError(
                f"class {other.place} of method.standard_model {folder} is '{other.first}', and "
                f"here it is '{other.second}'; give one that was trained on the same classes, in "
                "the same order"
            )
        self._standard = standard.to(network.mean.device).requires_grad_(False)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        clean_logits = self.clean_logits(network, batch.images)
        outcome = self.attack(network, batch, keys, "kl", clean_logits=clean_logits)
        record = clean_record(clean_logits)
        record |= attack_record(outcome, batch.main_labels, clean_logits)
        with frozen(self._standard), torch.no_grad():
            helper_logits = self._standard(outcome.images)
        self.see("the standard model's logits are", helper_logits)
        extras = {"helper_labels": helper_logits.argmax(dim=1)}
        return Prepared(batch, outcome.images, record=record, extras=extras)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        images, adversarial = prepared.batch.images, prepared.adversarial
        assert adversarial is not None
        helper = images + self.settings.reach * (adversarial - images)
        # Not smoothed, as in the authors' variant with label smoothing.
        helped = F.cross_entropy(network(helper).float(), prepared.extras["helper_labels"])
        robust = trades_loss(self, network, prepared, self.settings.beta)
        return replace(robust, loss=robust.loss + self.settings.gamma * helped)
