"""One look for every figure: colours, names and axis furniture.

The qualitative colours are those of Okabe and Ito, "Color Universal Design" (2008), distinguishable with every common
colour vision deficiency. Free energies use a perceptually uniform map, differences a diverging one.
Figures are ``matplotlib.figure.Figure`` objects (never pyplot), so they can be made in a callback or a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
GREY, PALE = "#7F7F7F", "#D9D9D9"

#: Colour of bead 0, 1, 2, ...; after the Okabe-Ito set, further hues by Paul Tol's "muted" scheme.
BEADS = (
    *(BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW),
    *("#332288", "#882255", "#999933", "#AA4499", "#44AA99", "#DDCC77", "#661100", "#888888"),
)

REFERENCE, CG, PRIOR, BACKMAPPED = BLUE, VERMILION, GREY, GREEN
REFERENCE_NAME, CG_NAME, PRIOR_NAME = "reference", "coarse-grained", "prior only"
LANDSCAPE, DIFFERENCE, WEIGHTS = "viridis", "RdBu_r", "Blues"

STYLE: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#444444",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.grid": False,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "path",
    "image.interpolation": "nearest",
}


@contextmanager
def style() -> Iterator[None]:
    """The look, for the time of a ``with`` block; other figures of the session keep theirs."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float = 6.4, height: float = 3.6) -> Figure:
    """An empty figure of ``width`` x ``height`` inches with its own Agg canvas; call inside :func:`style`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(rows: int, columns: int, width: float = 3.1, height: float = 2.6, **kwargs: Any) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels, each ``width`` x ``height`` inches, as a flat list of axes."""
    figure = new_figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, list(grid.flat)


def bead_color(bead: int) -> str:
    """Colour of a bead; beyond the palette the colours repeat."""
    return BEADS[bead % len(BEADS)]


def shared_limits(*values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest finite value of all arrays: the common scale of panels that are to be compared."""
    import numpy as np

    finite = np.concatenate([np.asarray(v, dtype=float)[np.isfinite(v)].ravel() for v in values])
    if finite.size == 0:
        raise ValueError("values: nothing finite to scale by; every bin is empty")
    return float(finite.min()), float(finite.max())


GREEK = {"phi": "φ", "psi": "ψ", "alpha": "α", "beta": "β", "theta": "θ", "omega": "ω", "tau": "τ"}


def pretty(name: str) -> str:
    """Greek letters for the names of angles and basins: "phi > 0" becomes "φ > 0", "alpha_R" becomes "αR"."""
    for word, letter in GREEK.items():
        name = re.sub(rf"\b{word}(_|\b)", letter, name)
    return name
