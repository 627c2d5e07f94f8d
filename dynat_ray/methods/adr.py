"""ADR: annealing self-distillation rectification (Wu, Wang and Chen, "Annealing self-distillation
rectification improves adversarial training", ICLR 2024); constants as in the paper's CIFAR-10 runs.

The teacher is a moving average of the weights. It is the method's own, whatever `train.ema_decay`
says, since it has no bias correction and its decay is a part of the method.

Ours: temperature and trust change from epoch to epoch (the authors': from step to step).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.plain import ADRSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.models import Classifier

# The attack takes logarithms of targets, which may be 0.
_LEAST_TARGET = 1e-12


@register
class ADR(Method[ADRSettings]):
    """Minimises `CE(f(x'), q)`, with targets q that a teacher rectifies; the attack maximises it.

    `q = l t + (1 - l) onehot(y)`, where t is the teacher's prediction for the clean image and
    `l = clip(lambda - (max t - t_y), 0, 1)`: the less it is trusted the more another class leads.
    """

    settings_class = ADRSettings

    def attach(self, network: Classifier) -> None:
        self._teacher = ModelEmaV3(network, decay=self.settings.decay)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        targets = self._rectified(batch)
        # Of all distributions, the KL from the target differs from its cross-entropy by a constant.
        outcome = self.attack(
            network,
            batch,
            keys,
            "kl",
            start="uniform",
            clean_logits=targets.clamp(min=_LEAST_TARGET).log(),
        )
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record, extras={"targets": targets})

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        rectified = replace(prepared.batch, targets=prepared.extras["targets"])
        losses = self.cross_entropies(network(prepared.adversarial), rectified)
        return MethodLoss(losses.mean(), {"adversarial_loss": losses.detach()})

    def end_step(self, network: nn.Module) -> None:
        self._teacher.update(network)

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self._teacher.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._teacher.module.load_state_dict(state["teacher"])

    def _rectified(self, batch: Batch) -> Tensor:
        """Returns the targets `(B, K)`."""
        settings, labels = self.settings, batch.main_labels
        with torch.no_grad():
            logits: Tensor = self._teacher.module(batch.images).float()
        self.see("the teacher's logits are", logits)
        temperature = self._annealed(settings.first_temperature, settings.last_temperature)
        probs = (logits / temperature).softmax(dim=1)
        own = probs.gather(1, labels[:, None]).squeeze(1)
        trust = self._annealed(settings.first_trust, settings.last_trust)
        share = (trust - (probs.amax(dim=1) - own)).clamp(0, 1)[:, None]
        truth = batch.targets
        if truth is None:
            truth = F.one_hot(labels, probs.shape[1])
        return share * probs + (1 - share) * truth.to(probs)

    def _annealed(self, first: float, last: float) -> float:
        return last + (first - last) * (1 + math.cos(math.pi * self.progress)) / 2
