"""IKL: improved Kullback-Leibler divergence (Cui, Tian, Zhong, Qi, Yu and Zhang, "Decoupled
Kullback-Leibler divergence loss", NeurIPS 2024); constants as in the authors' CIFAR-10 command.

They decouple the gradient of the KL into a cross-entropy with soft labels and a squared error
between the differences of any two logits, `sum_jk w_j w_k ((z_j - z_k) - (z'_j - z'_k))^2 / 4`. IKL
takes for w the mean prediction of the sample's class in the epoch before, and lets gradients of the
squared error flow into both sides.

Ours: predictions by class are those that the attack begins with, in eval mode, so that they cost
nothing (the authors': of the outer pass).
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.pairing import IKLSettings
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.class_predictions import ClassPredictions
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.models import Classifier

SettingsT = TypeVar("SettingsT", bound=IKLSettings)


class DecoupledKL(Method[SettingsT]):
    """Minimises `CE(f(x), y) + beta wMSE(z, z') + alpha CE(z', p)`, p detached; KL attack."""

    def __init__(self, settings: SettingsT, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.predictions = ClassPredictions(context.classes)

    def attach(self, network: Classifier) -> None:
        self.predictions.to(network.mean.device)

    def start_epoch(self, epoch: int, progress: float) -> None:
        super().start_epoch(epoch, progress)
        self.predictions.start_epoch(epoch)

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        labels, clean_logits = batch.main_labels, self.clean_logits(network, batch.images)
        self.predictions.add((clean_logits / self.settings.temperature).softmax(dim=1), labels)
        outcome = self.attack(network, batch, keys, "kl", clean_logits=clean_logits)
        record = clean_record(clean_logits) | attack_record(outcome, labels, clean_logits)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        clean_logits = network(batch.images).float()
        adversarial_logits = network(prepared.adversarial).float()
        clean = self.cross_entropies(clean_logits, batch)
        soft = -(clean_logits.detach().softmax(dim=1) * adversarial_logits.log_softmax(dim=1))
        squares = self.weighted_squares(clean_logits - adversarial_logits, batch.main_labels)
        record = {
            "clean_loss": clean.detach(),
            "adversarial_loss": self.cross_entropies(adversarial_logits.detach(), batch),
        }
        apart = settings.beta * squares + settings.alpha * soft.sum(dim=1).mean()
        return MethodLoss(clean.mean() + apart, record)

    def weighted_squares(self, change: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean weighted squared error of differences of logits, a scalar.

        Args:
            change: `z - z'`, `(B, K)`.
            labels: `(B,)`.
        """
        return spread_of_differences(change, self.predictions.means[labels]).mean()

    def state_dict(self) -> dict[str, Any]:
        return {"predictions": self.predictions.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.predictions.load_state_dict(state["predictions"])


@register
class IKL(DecoupledKL[IKLSettings]):
    """Weighs differences by the mean prediction of the class."""

    settings_class = IKLSettings


def spread_of_differences(change: Tensor, weights: Tensor) -> Tensor:
    """Returns `sum_jk w_j w_k (d_j - d_k)^2 / 4`, `(B,)`.

    It is half the variance of d under the weights, times the square of their sum.

    Args:
        change: `d`, `(B, K)`.
        weights: `w`, `(B, K)`, 0 or more, of which each row has some above 0.
    """
    total = weights.sum(dim=1, keepdim=True)
    mean = (weights * change).sum(dim=1, keepdim=True) / total
    return total.squeeze(1) * (weights * (change - mean).square()).sum(dim=1) / 2
