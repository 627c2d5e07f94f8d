"""GKL: generalised Kullback-Leibler divergence (Cui et al.), the second version of `ikl`; constants
as in the second of the authors' CIFAR-10 commands.

Weights of the squared error are powers of the class's mean prediction, so that classes which are
hardly ever predicted count too; the error is divided by the weights' sum over the batch, which with
`gamma` 1 makes it IKL's.
"""

from __future__ import annotations

from torch import Tensor

from dynat_ray.method_settings.pairing import GKLSettings
from dynat_ray.methods.ikl import DecoupledKL, spread_of_differences
from dynat_ray.methods.registration import register


@register
class GKL(DecoupledKL[GKLSettings]):
    """Weighs differences by powers of the mean prediction of the class."""

    settings_class = GKLSettings

    def weighted_squares(self, change: Tensor, labels: Tensor) -> Tensor:
        weights = self.predictions.means[labels].pow(self.settings.gamma)
        spread = spread_of_differences(change, weights)
        return spread.sum() / weights.sum(dim=1).square().sum()
