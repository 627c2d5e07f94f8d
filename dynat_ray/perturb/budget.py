"""DynAT's budgets: fragile samples get less than eps, robust ones more, on average eps.

The abstract of the paper (Wang, Zhang and Mei, "Dynamic adversarial training method based on
sample robustness disparity", 2026) says that the gap between the two largest confidences and the
skewness of all of them decide the budget of correctly classified samples. The formula is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray.collectives import sum_over_workers

# Share of a batch in the running means.
_MOMENTUM = 0.1


class BudgetRule:
    """`eps_i = eps * clip(exp(a (m_i - mean m) + b (s_i - mean s)), low, high) / mean factor`.

    The means run over the correctly classified samples of all workers. A sample of which a signal
    is not finite counts as wrong.

    Args:
        gap_coef: `a`, weight of the confidence gap `m`.
        skew_coef: `b`, weight of the normalised skewness `s`.
        min_ratio: Smallest factor.
        max_ratio: Largest factor.
    """

    def __init__(
        self, gap_coef: float, skew_coef: float, min_ratio: float, max_ratio: float
    ) -> None:
        self.gap_coef, self.skew_coef = gap_coef, skew_coef
        self.min_ratio, self.max_ratio = min_ratio, max_ratio
        self._gap: float | Tensor = 0.0
        self._skewness: float | Tensor = 0.0
        self._factor: float | Tensor = 1.0
        self._started: bool | Tensor = False

    def ratios(self, gap: Tensor, skewness: Tensor, correct: Tensor) -> Tensor:
        """Returns budgets as multiples of eps, `(B,)`, and moves the running means.

        Every worker must call this for every batch: the means are shared.

        Args:
            gap: Confidence gaps `(B,)`.
            skewness: Normalised skewness `(B,)`.
            correct: Correctly classified samples `(B,)`; the others get 1.
        """
        correct = correct & gap.isfinite() & skewness.isfinite()
        # Not times 0, which leaves what is not finite as it is.
        gap, skewness = torch.where(correct, gap, 0.0), torch.where(correct, skewness, 0.0)
        counted = correct.to(gap.dtype)
        sums = torch.stack([gap.sum(), skewness.sum(), counted.sum()])
        gap_sum, skewness_sum, count = sum_over_workers(sums).unbind()
        # The first correct samples decide alone: before them the means are none.
        present = count.clamp(max=1)
        started = torch.as_tensor(self._started, device=gap.device)
        rate = present * torch.where(started, _MOMENTUM, 1.0)
        count = count.clamp(min=1)
        self._gap = self._gap + rate * (gap_sum / count - self._gap)
        self._skewness = self._skewness + rate * (skewness_sum / count - self._skewness)
        exponent = self.gap_coef * (gap - self._gap) + self.skew_coef * (skewness - self._skewness)
        factor = exponent.exp().clamp(self.min_ratio, self.max_ratio)
        mean_factor = sum_over_workers((factor * counted).sum()) / count
        self._factor = self._factor + rate * (mean_factor - self._factor)
        self._started = started | (present > 0)
        # Of extreme coefficients all factors may be 0.
        mean = self._factor.clamp(min=torch.finfo(factor.dtype).tiny)
        return torch.where(correct, factor / mean, torch.ones_like(factor))

    def state_dict(self) -> dict[str, float | bool]:
        """Returns the running means, for a checkpoint."""
        return {
            "gap": float(self._gap),
            "skewness": float(self._skewness),
            "factor": float(self._factor),
            "started": bool(self._started),
        }

    def load_state_dict(self, state: dict[str, float | bool]) -> None:
        """Takes the running means from a checkpoint."""
        self._gap, self._skewness = float(state["gap"]), float(state["skewness"])
        self._factor, self._started = float(state["factor"]), bool(state["started"])
