"""A liquid of beads: what is to be reproduced, how a fit comes near to it, what acts between beads, and the box itself."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlmd import units
from mlmd.observables import RDF, Density1D
from mlmd_widgets import theme

FELT = 12.0  # kT; steeper parts of a potential are not shown


def densities(items: Dict[str, tuple[str, Density1D]], columns: int = 4) -> Figure:
    """Densities with their error bands, by name: (axis label, density in the unit of the label)."""
    if not items:
        raise ValueError("items is empty: give at least one density by name")
    columns = min(columns, len(items))
    with theme.style():
        figure, axes = theme.panels(-(-len(items) // columns), columns, 2.5, 1.95)
        for ax, (name, (label, d)) in zip(axes, items.items()):
            ax.fill_between(d.centers, d.density, color=theme.REFERENCE, alpha=0.15, linewidth=0)
            ax.fill_between(d.centers, d.density - d.error, d.density + d.error, color=theme.REFERENCE, alpha=0.35, linewidth=0)
            ax.plot(d.centers, d.density, color=theme.REFERENCE, linewidth=1.5)
            ax.set(xlabel=label, ylim=(0, None))
            ax.set_yticks([])
            ax.spines["left"].set_visible(False)
            ax.set_title(theme.pretty(name), fontsize=9)
        for ax in axes[len(items) :]:
            ax.set_axis_off()
        for row in range(0, len(items), columns):
            axes[row].set_ylabel("density")
    return figure


def iterations(logs: Sequence[Dict[str, Any]], tolerance: float, quantity: str = "mean", pressure: float | None = None) -> Figure:
    """How g(r) and the pressure changed from one iteration to the next; the pressure with its standard error.

    logs: of iterations, with "iteration", "mean", "max", "noise", "pressure" and "pressure error" in bar; tolerance of ``quantity``;
    pressure: the one that is wanted, bar, if any.
    """
    if not logs:
        raise ValueError("logs is empty: there was no iteration to show")
    steps = [log["iteration"] for log in logs]
    with theme.style():
        figure, (left, right) = theme.panels(1, 2, 4.0, 2.7)
        left.plot(steps, [log["max"] for log in logs], "o-", color=theme.CG, label="largest", markersize=4)
        left.plot(steps, [log["mean"] for log in logs], "s-", color=theme.REFERENCE, label="mean", markersize=4)
        noise = [log["noise"] for log in logs]
        left.plot(steps, noise, ":", color=theme.GREY, label="standard error of g, largest", linewidth=1.3)
        left.axhline(tolerance, color=theme.BLACK, linestyle="--", linewidth=1.0, label=f"wanted of the {quantity}")
        left.set(xlabel="iteration", ylabel="|g − g of the atoms|", title="Structure", yscale="log")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
        p, e = ([log[k] for log in logs] for k in ("pressure", "pressure error"))
        right.errorbar(steps, p, yerr=e, fmt="o-", color=theme.CG, capsize=3, markersize=4)
        if pressure is not None:
            right.axhline(pressure, color=theme.BLACK, linestyle="--", linewidth=1.0)
        right.set(xlabel="iteration", ylabel="pressure / bar", title="Pressure of the beads")
        for ax in (left, right):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def pair_potentials(r: Any, curves: Dict[str, Dict[str, Any]], kT: float, columns: int = 3) -> Figure:
    """Pair potentials in kT by the name of the pair: the named curves over distances ``r`` (K,) in A, where they are below ``FELT`` kT;
    the last is the result, one before it the start."""
    columns = min(columns, len(curves))
    with theme.style():
        figure, axes = theme.panels(-(-len(curves) // columns), columns, 3.2, 2.5)
        for ax, (pair, named) in zip(axes, curves.items()):
            for (name, u), color in zip(named.items(), (theme.GREY, theme.CG)[-len(named) :]):
                v = np.asarray(u) / kT
                felt = v < FELT
                ax.plot(
                    np.asarray(r)[felt],
                    v[felt],
                    color=color,
                    label=name,
                    linestyle="--" if color == theme.GREY else "-",
                    linewidth=1.6,
                )
            ax.axhline(0, color=theme.PALE, linewidth=0.8, zorder=0)
            low = min(float(np.min(u)) for u in named.values()) / kT
            ax.set(xlabel=units.label("length", "r"), ylabel="u / kT", title=pair, ylim=(min(1.6 * low, -0.2), max(1.5, -2 * low)))
        for ax in axes[len(curves) :]:
            ax.set_axis_off()
        _one_legend(figure, axes[0])
    return figure


def two_boxes(items: Dict[str, tuple[RDF, RDF]], names: tuple[str, str], columns: int = 3) -> Figure:
    """g(r) of one potential in two boxes: title -> (small, large), with error bands."""
    columns = min(columns, len(items))
    with theme.style():
        figure, axes = theme.panels(-(-len(items) // columns), columns, 3.2, 2.4)
        for ax, (title, pair) in zip(axes, items.items()):
            for g, color, name, line in zip(pair, (theme.CG, theme.GREEN), names, ("-", "--")):
                ax.fill_between(g.r, g.g - g.error, g.g + g.error, color=color, alpha=0.25, linewidth=0)
                ax.plot(g.r, g.g, color=color, label=name, linestyle=line)
            ax.axhline(1, color=theme.PALE, linewidth=0.8, zorder=0)
            ax.set(xlabel=units.label("length", "r"), ylabel="g(r)", title=title, ylim=(0, None))
        for ax in axes[len(items) :]:
            ax.set_axis_off()
        _one_legend(figure, axes[0])
    return figure


def _one_legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
