"""What a simulation did: courses over time, and distributions beside the law that they should follow."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mlmd_widgets import theme


def courses(
    x: Any, ys: Dict[str, Any], xlabel: str, ylabel: str, title: str = "", level: tuple[str, float] | None = None, log: bool = False
) -> Figure:
    """Several curves over one axis; ``level``: name and value of a horizontal line, such as the temperature asked for.

    Raises:
        ValueError: without a curve, or one of another length than ``x``.
    """
    if not ys:
        raise ValueError("ys is empty: give at least one curve by name")
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 6.4, 2.9)
        for (name, y), color in zip(ys.items(), theme.BEADS):
            if len(y) != len(x):
                raise ValueError(f"{name} has {len(y)} points for {len(x)} values of x")
            ax.plot(x, y, color=color, label=name, linewidth=1.3)
        if level is not None:
            ax.axhline(level[1], color=theme.BLACK, linestyle="--", linewidth=1.1, label=level[0])
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title, yscale="log" if log else "linear")
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def beside_law(samples: Dict[str, Any], x: Any, density: Any, xlabel: str, law: str, title: str = "", bins: int = 40) -> Figure:
    """Histograms (as densities) of samples, by name, and the density (K,) at x (K,) that they should follow.

    Raises:
        ValueError: without samples.
    """
    if not samples:
        raise ValueError("samples is empty: give at least one sample by name")
    x = np.asarray(x, dtype=float)
    edges = np.linspace(x[0], x[-1], bins + 1).tolist()
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 6.4, 2.9)
        for (name, values), color in zip(samples.items(), theme.BEADS):
            ax.hist(np.asarray(values), bins=edges, density=True, histtype="step", color=color, label=name, linewidth=1.4)
        ax.plot(x, density, color=theme.BLACK, linestyle="--", linewidth=1.2, label=law)
        ax.set(xlabel=xlabel, ylabel="density", title=title, xlim=(x[0], x[-1]), ylim=(0, None))
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
