"""How the report's figures look, and how they get into the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dynat_ray.shown_text import shown_text

CLEAN = "#1f6f9f"
ROBUST = "#c4502b"
NEUTRAL = "#5b6570"
FAINT = "#d9dee3"
# Colours that stay apart for readers who do not see all of them.
COLOURS = (CLEAN, ROBUST, "#4f8a5b", "#8a5fa8", "#b08a2e", "#3d4750", "#59a5b5", "#c77da0")
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#a9cfe3", "#1f6f9f", "#0b2c46"])

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    # No ticks are above: to look for them takes a fifth of the time.
    "axes.titley": 1.0,
    "axes.edgecolor": "#9aa4ae",
    "axes.labelcolor": NEUTRAL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e9edf0",
    "axes.axisbelow": True,
    "xtick.color": NEUTRAL,
    "ytick.color": NEUTRAL,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    # Names are the user's: a dollar sign begins no formula.
    "text.parse_math": False,
    # The same figure gives the same file.
    "svg.hashsalt": "dynat-ray",
}


def draw(width: float, height: float, paint: Callable[[Figure], None]) -> str:
    """Returns a figure as the `src` of an HTML image.

    Args:
        width: In inches; 10 fill the page.
        height: In inches.
        paint: Fills the figure.
    """
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Characters that no font here has are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)  # type: ignore[union-attr, call-arg]
        paint(figure)
        file = io.BytesIO()
        # `savefig` would draw everything twice, the first time for the layout alone.
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def drawn_name(name: str, longest: int = 32) -> str:
    """Returns a name as figures show it; legends leave out what begins with an underscore."""
    shown = shown_text(name, longest)
    return f" {shown}" if shown.startswith("_") else shown


def radius_unit(norm: str) -> tuple[int, str]:
    """Returns what radii in [0, 1] pixels are drawn as multiples of, and what axes say of it.

    Args:
        norm: `Linf`, whose radii people write in 255ths, `L2` or `L1`.
    """
    return (255, ", in 255ths") if norm == "Linf" else (1, "")


def plot_epochs(
    axes: Axes,
    epochs: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    color: str,
    label: str = "",
    dashed: bool = False,
) -> None:
    """Draws a value over the epochs; a few points also get dots, or one alone would not show."""
    axes.plot(
        epochs,
        values,
        color=color,
        label=label,
        linestyle="--" if dashed else "-",
        linewidth=1.3 if dashed else 1.8,
        marker="o" if len(epochs) <= 12 else "",
        markersize=3.5,
    )


def label_epochs(axes: Axes, epochs: int) -> None:
    """Makes the horizontal axis one of epochs 1 to `epochs`."""
    axes.set_xlim(0.5, max(epochs, 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
