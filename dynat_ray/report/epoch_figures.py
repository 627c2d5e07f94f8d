"""Figures of what changes from epoch to epoch: accuracy, loss, speed."""

from __future__ import annotations

from matplotlib.figure import Figure

from dynat_ray.report.drawing import CLEAN, NEUTRAL, ROBUST, draw, label_epochs, plot_epochs
from dynat_ray.report.reading import Run


def learning_curves(run: Run) -> str:
    """Returns clean and robust accuracy on both splits, the loss and the learning rate."""

    def paint(figure: Figure) -> None:
        grid = figure.add_gridspec(2, 2, width_ratios=(1.9, 1))
        epochs = len(run.metrics)
        accuracy = figure.add_subplot(grid[:, 0])
        accuracy.set_title("Accuracy, %")
        for kind, color in (("clean", CLEAN), ("robust", ROBUST)):
            for split in ("validation", "train"):
                series = run.series(f"{split}_{kind}_accuracy")
                if len(series[0]):
                    label = f"{kind}, {'training' if split == 'train' else split}"
                    plot_epochs(
                        accuracy, *series, color=color, label=label, dashed=split == "train"
                    )
        best = max((line["epoch"] + 1 for line in run.metrics if line.get("best")), default=0)
        if best:
            accuracy.axvline(best, color=NEUTRAL, linewidth=0.9, linestyle=":", label="best epoch")
        accuracy.set_ylim(-2, 102)
        label_epochs(accuracy, epochs)
        figure.legend(loc="outside lower left", ncols=5, columnspacing=1.6)
        for row, (name, title) in enumerate(
            (("loss", "Training loss"), ("learning_rate", "Learning rate"))
        ):
            axes = figure.add_subplot(grid[row, 1])
            axes.set_title(title)
            plot_epochs(axes, *run.series(name), color=NEUTRAL)
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
            label_epochs(axes, epochs)

    return draw(10, 4.4, paint)


def speed_curves(run: Run) -> str:
    """Returns images per second, seconds and attack passes of each epoch."""
    panels = [
        ("images_per_second", "Images per second"),
        ("seconds", "Seconds per epoch"),
        ("passes_per_sample", "Attack passes per image"),
    ]

    def paint(figure: Figure) -> None:
        for axes, (name, title) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.set_title(title)
            plot_epochs(axes, *run.series(name), color=NEUTRAL)
            axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
            label_epochs(axes, len(run.metrics))

    return draw(10, 2.5, paint)
