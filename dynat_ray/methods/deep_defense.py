"""Deep Defense (Yan, Guo and Zhang, "Deep Defense: training DNNs with improved adversarial
robustness", NeurIPS 2018); objective and constants as in the authors' code.

Ours: DeepFool's overshoot of 0.02 counts in every step, so that a boundary is linearised at
`x + 1.02 r` where the authors' code does it at `x + r` (rho is 0.2 % smaller to 4 % larger);
lengths are taken of images in [0, 1] (the authors' are in the network's input space), batch
normalisation and dropout are in eval mode while fine-tuning, exponents are bounded so that a
flat region can't make the loss infinite, of many classes only the likeliest `candidates` are looked
at, and the learning rate is a part of the recipe's, which is made for training from scratch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.method_settings.plain import DeepDefenseSettings
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.models import Classifier
from dynat_ray.perturb.deepfool import deepfool, relative_length

_LARGEST_EXPONENT = 3.0


@register
class DeepDefense(Method[DeepDefenseSettings]):
    """Fine-tunes with `CE + lambda mean R`, `R = exp(-c rho)` if correct, `exp(d rho)` if not.

    `rho = |DeepFool's perturbation| / |x|`, differentiated through DeepFool's steps.
    """

    settings_class = DeepDefenseSettings
    differentiates_twice = True
    outer_mode = "eval"

    def __init__(self, settings: DeepDefenseSettings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.learning_rate_ratio = settings.lr_ratio

    def attach(self, network: Classifier) -> None:
        if not self.context.starts_trained:
            raise UserError(
                "method 'deep_defense' fine-tunes a trained model: give one as --model.init_from "
                "FOLDER (train it with --method.name standard)"
            )
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        return Prepared(batch)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        with torch.autocast(batch.images.device.type, enabled=False):
            outcome = deepfool(
                network,
                batch.images,
                batch.main_labels,
                steps=settings.steps,
                candidates=settings.candidates,
                differentiable=True,
            )
        rho = relative_length(outcome.perturbation, batch.images)
        predicted = outcome.logits.detach().argmax(dim=1)
        exponent = torch.where(
            predicted == batch.main_labels, -settings.correct_rate * rho, settings.wrong_rate * rho
        )
        regulariser = exponent.clamp(max=_LARGEST_EXPONENT).exp()
        clean = self.cross_entropies(outcome.logits, batch)
        record = {"predicted": predicted, "clean_loss": clean.detach()}
        loss = (clean + settings.regularisation * regulariser).mean()
        return MethodLoss(loss, record)
