"""Figures of how per-sample values spread: budgets, attack steps, confidence gaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from dynat_ray.report.drawing import FAINT, NEUTRAL, ROBUST, SHADES, draw, label_epochs, radius_unit
from dynat_ray.report.reading import Columns, Run, read_samples

# Epochs that are read for the distributions: more would only make narrower columns.
_MOST_EPOCHS = 100
_BUDGET_BINS = 40
_MOST_GAP_BINS = 60


def budgets_and_steps(run: Run) -> str | None:
    """Returns how budgets and attack steps spread over the samples, epoch by epoch.

    None if the method does not attack while it trains.
    """
    epochs = _some(sorted(run.sample_files))
    columns = [read_samples(run.sample_files[e], ["eps", "attack_steps"]) for e in epochs]
    if not columns or any("eps" not in each or "attack_steps" not in each for each in columns):
        return None
    scale, unit = radius_unit(run.config.threat.norm)
    budgets = [each["eps"] * scale for each in columns]
    steps = [each["attack_steps"] for each in columns]
    eps = run.config.threat.eps * scale
    top = 1.08 * max(eps, *(values.max() for values in budgets), 1e-6)
    planned = run.config.method.most_steps(run.config.attack.steps)
    most = max(planned, *(int(values.max()) for values in steps))

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.set_title(f"Budget per image{unit}")
        _heat_map(left, epochs, budgets, np.linspace(0, top, _BUDGET_BINS + 1))
        left.axhline(eps, color=ROBUST, linewidth=1, linestyle=":", label=f"eps, {eps:.3g}")
        right.set_title("Attack steps per image")
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        drawn = _heat_map(right, epochs, steps, np.arange(most + 2) - 0.5)
        bar = figure.colorbar(drawn, ax=[left, right], pad=0.015, aspect=30)
        bar.set_label("part of the epoch's images", color=NEUTRAL)
        bar.outline.set_visible(False)
        for axes in (left, right):
            label_epochs(axes, max(epochs) + 1)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)

    return draw(10, 3.8, paint)


@dataclass(frozen=True)
class Gaps:
    """Signed confidence gaps before and after the attack, `(N,)` in [-1, 1]; positive: right.

    Attributes:
        clean: Top minus second probability; negated where the prediction is wrong, which is the
            least that the true class lies behind.
        adversarial: Probability of the true class minus the largest other one.
    """

    clean: NDArray[np.float64]
    adversarial: NDArray[np.float64]

    def shares(self) -> dict[str, float]:
        """Returns the percentage of samples in each quadrant, by what became of them."""
        right, stays = self.clean > 0, self.adversarial > 0
        return {
            "right, and right under attack": 100 * float((right & stays).mean()),
            "right, but the attack wins": 100 * float((right & ~stays).mean()),
            "wrong without any attack": 100 * float((~right).mean()),
        }


def confidence_gaps(samples: Columns) -> Gaps | None:
    """Returns the gaps of an epoch, None if the method does not know them."""
    needed = ("predicted", "label", "confidence_gap", "adversarial_gap")
    if any(name not in samples for name in needed):
        return None
    sign = np.where(samples["predicted"] == samples["label"], 1, -1)
    return Gaps(
        clean=sign * samples["confidence_gap"].astype(np.float64),
        adversarial=-samples["adversarial_gap"].astype(np.float64),
    )


def gap_figure(gaps: Gaps) -> str:
    """Returns the 2-d histogram of clean against adversarial gap."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        bins = int(np.clip(np.sqrt(len(gaps.clean)), 10, _MOST_GAP_BINS))
        edges = np.linspace(-1, 1, bins + bins % 2 + 1)
        counts, _, _ = np.histogram2d(gaps.clean, gaps.adversarial, bins=[edges, edges])
        axes.set_aspect("equal")
        axes.axhline(0, color=NEUTRAL, linewidth=0.8)
        axes.axvline(0, color=NEUTRAL, linewidth=0.8)
        axes.plot([-1, 1], [-1, 1], color=FAINT, linewidth=1.2, zorder=0.5)
        drawn = axes.pcolormesh(
            edges,
            edges,
            np.ma.masked_equal(counts.T, 0),
            # Starts below one sample: single samples must show on white.
            norm=LogNorm(0.2, max(float(counts.max()), 10.0)),
            cmap=SHADES,
            rasterized=True,
            zorder=1.5,
        )
        axes.set_xlabel("confidence gap without attack")
        axes.set_ylabel("confidence gap under attack")
        for side, text in (("bottom", "still right under attack"), ("top", "the attack wins")):
            offset = 0.02 if side == "bottom" else -0.02
            axes.text(-0.98, offset, text, va=side, color=NEUTRAL, fontsize=9)
        bar = figure.colorbar(drawn, ax=axes, pad=0.02, shrink=0.8)
        bar.set_label("training images", color=NEUTRAL)
        bar.ax.set_ylim(bottom=1)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
        bar.outline.set_visible(False)

    return draw(6, 4.9, paint)


def _heat_map(
    axes: Axes, epochs: list[int], values: list[NDArray[Any]], edges: NDArray[np.floating[Any]]
) -> Any:
    """Draws a column for each epoch, darker where more samples are, and the mean as a line."""
    shares = np.stack([np.histogram(each, bins=edges)[0] / len(each) for each in values], axis=1)
    # Epochs that were left out belong to the column before them.
    borders = np.array([*epochs, epochs[-1] + 1]) + 0.5
    drawn = axes.pcolormesh(
        borders, edges, shares, norm=PowerNorm(0.5, 0, 1), cmap=SHADES, rasterized=True
    )
    axes.plot(
        np.array(epochs) + 1,
        [each.mean() for each in values],
        color=ROBUST,
        marker="o" if len(epochs) <= 12 else "",
        markersize=3.5,
        label="mean",
    )
    axes.grid(False)
    return drawn


def _some(epochs: list[int]) -> list[int]:
    if len(epochs) <= _MOST_EPOCHS:
        return epochs
    chosen = np.unique(np.linspace(0, len(epochs) - 1, _MOST_EPOCHS).round().astype(int))
    return [epochs[place] for place in chosen]
