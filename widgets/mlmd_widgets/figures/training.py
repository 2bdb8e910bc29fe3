"""Training shown beside what can be reached: zero force, prior only, and the noise of the instantaneous forces."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mlmd import units
from mlmd_widgets import theme


def force_training(
    steps: Any,
    train: Any,
    validation_steps: Any,
    validation: Any,
    zero_force: float,
    prior_only: float | None = None,
    noise: float | None = None,
) -> Figure:
    """Mean square force error per step between the error of "no force at all" and the estimated noise.

    All errors in (eV/A)^2 per component. The noise part of the instantaneous forces cannot be learned: the curve ends on it.
    """
    factor, label = units.SHOWN["force^2"]
    with theme.style():
        figure, (left, right) = theme.panels(1, 2, 3.7, 2.8)
        levels = [
            ("zero force", zero_force, theme.BLACK, ":"),
            ("prior only", prior_only, theme.GREY, "--"),
            ("noise (estimated)", noise, theme.GREEN, "-"),
        ]
        for ax in (left, right):
            ax.plot(steps, np.asarray(train, dtype=float) / factor, color=theme.SKY, linewidth=1, label="training")
            ax.plot(validation_steps, np.asarray(validation, dtype=float) / factor, color=theme.BLUE, label="validation")
            ax.set(xlabel="step", ylabel=f"force error / {label}")
            for name, value, color, line in levels:
                if value is not None and (ax is left or name != "zero force"):
                    ax.axhline(value / factor, color=color, linestyle=line, linewidth=1.2, label=name)
        left.set(title="From zero force to the noise", ylim=(0, None))
        right.set_title("The same, enlarged")
        shown = [v / factor for v in (prior_only, noise) if v is not None] + list(np.asarray(validation, dtype=float) / factor)
        low, high = min(shown), max(shown)
        pad = 0.12 * (high - low) or 0.02 * abs(high) or 1.0
        right.set_ylim(low - pad, high + pad)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def refinement(updates: Any, divergence: Any, floor: float | None = None, before: float | None = None) -> Figure:
    """Jensen-Shannon divergence between the replicas and the reference while relative entropy refines the potential."""
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 4.6, 2.7)
        ax.plot(updates, divergence, color=theme.CG, label="replicas at that update")
        if before is not None:
            ax.axhline(before, color=theme.GREY, linestyle="--", linewidth=1.2, label="force matching alone")
        if floor is not None:
            ax.axhline(floor, color=theme.GREEN, linewidth=1.2, label="floor of sampling")
        ax.set(xlabel="update", ylabel="JS divergence / nat", ylim=(0, None), title="Refinement by relative entropy")
        ax.legend()
    return figure


def curve(x: Any, y: Any, xlabel: str, ylabel: str, title: str = "", color: str = theme.BLUE) -> Figure:
    """One curve."""
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 4.6, 2.7)
        ax.plot(x, y, color=color)
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return figure
