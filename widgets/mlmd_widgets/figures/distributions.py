"""Distributions laid over each other: reference, coarse-grained, prior; with error bands."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlmd import units
from mlmd.analysis import Population
from mlmd.analysis.compare import Overlay
from mlmd.cg.priors import PriorTerm
from mlmd.observables import RDF, Density1D
from mlmd_widgets import theme


def overlays(items: Sequence[Overlay], priors: Dict[str, Density1D] | None = None, columns: int = 4) -> Figure:
    """A grid of densities, reference and coarse-grained, errors as bands; ``priors``: the same under the prior alone, by name."""
    if not items:
        raise ValueError("items is empty: give at least one Overlay")
    columns = min(columns, len(items))
    with theme.style():
        figure, axes = theme.panels(-(-len(items) // columns), columns, 2.5, 1.95)
        for ax, item in zip(axes, items):
            _density(ax, (priors or {}).get(item.name), item.quantity, theme.PRIOR, theme.PRIOR_NAME, linestyle="--", linewidth=1.1)
            _density(ax, item.reference, item.quantity, theme.REFERENCE, theme.REFERENCE_NAME, fill=True)
            _density(ax, item.simulated, item.quantity, theme.CG, theme.CG_NAME)
            unit = units.SHOWN[item.quantity].label
            ax.set(xlabel=f"{'r' if item.quantity == 'length' else 'angle'} / {unit}", ylim=(0, None))
            ax.set_yticks([])
            ax.spines["left"].set_visible(False)
            ax.set_title(theme.pretty(item.name), fontsize=9)
            _limits(ax, item)
        for ax in axes[len(items) :]:
            ax.set_axis_off()
        for row in range(0, len(items), columns):
            axes[row].set_ylabel("density")
        _legend(figure, axes)
    return figure


def prior_fits(report: Sequence[PriorTerm], bead_names: Sequence[str] | None = None, columns: int = 4) -> Figure:
    """Every fitted prior over the histogram of the data that it was fitted to."""
    if not report:
        raise ValueError("report is empty: the prior has no bonded terms")
    columns = min(columns, len(report))
    with theme.style():
        figure, axes = theme.panels(-(-len(report) // columns), columns, 2.5, 1.95)
        for ax, term in zip(axes, report):
            quantity = "length" if term.kind == "distances" else "angle"
            factor, unit = units.SHOWN[quantity]
            q = np.asarray(term.q) / factor
            seen = np.flatnonzero(
                (np.asarray(term.data_density) > 0) | (np.asarray(term.fit_density) > 1e-4 * np.max(term.fit_density))
            )
            ax.fill_between(
                q, np.asarray(term.data_density) * factor, step="mid", color=theme.REFERENCE, alpha=0.3, linewidth=0, label="data"
            )
            ax.plot(q, np.asarray(term.fit_density) * factor, color=theme.BLACK, linewidth=1.3, label="fitted prior")
            ax.set(xlabel=f"{'r' if quantity == 'length' else 'angle'} / {unit}", ylim=(0, None), xlim=(q[seen[0]], q[seen[-1]]))
            ax.set_title(f"{term.name} {'-'.join(bead_names[b] if bead_names else str(b + 1) for b in term.beads)}", fontsize=9)
            ax.set_yticks([])
            ax.spines["left"].set_visible(False)
        for ax in axes[len(report) :]:
            ax.set_axis_off()
        _legend(figure, axes)
    return figure


def rdfs(items: Dict[str, tuple[RDF, RDF | None]], columns: int = 3) -> Figure:
    """Radial distribution functions g(r): title -> (reference, coarse-grained)."""
    if not items:
        raise ValueError("items is empty: give at least one pair of radial distribution functions")
    columns = min(columns, len(items))
    with theme.style():
        figure, axes = theme.panels(-(-len(items) // columns), columns, 3.2, 2.4)
        for ax, (title, (reference, cg)) in zip(axes, items.items()):
            for g, color, name in ((reference, theme.REFERENCE, theme.REFERENCE_NAME), (cg, theme.CG, theme.CG_NAME)):
                if g is not None:
                    ax.fill_between(g.r, g.g - g.error, g.g + g.error, color=color, alpha=0.25, linewidth=0)
                    ax.plot(g.r, g.g, color=color, label=name)
            ax.axhline(1, color=theme.PALE, linewidth=0.8, zorder=0)
            ax.set(xlabel=units.label("length", "r"), ylabel="g(r)", title=title, ylim=(0, None))
        for ax in axes[len(items) :]:
            ax.set_axis_off()
        _legend(figure, axes)
    return figure


def populations(pairs: Sequence[tuple[Population, Population]]) -> Figure:
    """Populations of regions with their standard errors, in percent: (reference, coarse-grained) of each."""
    y = np.arange(len(pairs))[::-1]
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 7.0, 0.9 + 0.5 * len(pairs))
        for shift, k, color, name in ((0.13, 0, theme.REFERENCE, theme.REFERENCE_NAME), (-0.13, 1, theme.CG, theme.CG_NAME)):
            value = [100 * pair[k].fraction for pair in pairs]
            error = [100 * pair[k].error for pair in pairs]
            ax.errorbar(value, y + shift, xerr=error, fmt="o", color=color, capsize=3, markersize=6, linewidth=1.4, label=name)
        ax.set_yticks(y, [theme.pretty(a.name.removeprefix("dihedral ")) for a, _ in pairs])
        ax.set_ylim(-0.6, len(pairs) - 0.4)
        ax.set(xlabel="population / %", xlim=(0, None), title="Populations")
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def convergence(
    time: Any, share: Any, error: Any = None, reference: tuple[float, float] | None = None, basin: str = "the start basin"
) -> Figure:
    """Share of the replicas in the basin in which all of them started, against time: has the start been forgotten?

    time (T,) in fs; share, error (T,) fractions; reference: (fraction, standard error).
    """
    factor, unit = units.SHOWN["time"]
    t, s = np.asarray(time, dtype=float) / factor, 100 * np.asarray(share, dtype=float)
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 5.2, 2.6)
        if reference is not None:
            level, width = 100 * reference[0], 100 * reference[1]
            ax.axhspan(level - width, level + width, color=theme.REFERENCE, alpha=0.2, linewidth=0)
            ax.axhline(level, color=theme.REFERENCE, linewidth=1.2, label=theme.REFERENCE_NAME)
        if error is not None:
            e = 100 * np.asarray(error, dtype=float)
            ax.fill_between(t, s - e, s + e, color=theme.CG, alpha=0.25, linewidth=0)
        ax.plot(t, s, color=theme.CG, label=theme.CG_NAME)
        ax.set(xlabel=f"time / {unit}", ylabel="population / %", title=f"Replicas in {basin}", ylim=(0, 102))
        ax.legend()
    return figure


def _density(ax: Axes, d: Density1D | None, quantity: str, color: str, name: str, fill: bool = False, **line: Any) -> None:
    if d is None:
        return
    factor = units.SHOWN[quantity].factor
    x, y, e = d.centers / factor, d.density * factor, d.error * factor
    if fill:
        ax.fill_between(x, y, color=color, alpha=0.15, linewidth=0)
    ax.fill_between(x, y - e, y + e, color=color, alpha=0.3, linewidth=0)
    ax.plot(x, y, color=color, label=name, **({"linewidth": 1.5} | line))


def _limits(ax: Axes, item: Overlay) -> None:
    """A full turn for dihedrals; else where either distribution is worth seeing."""
    edges, factor = item.reference.edges, units.SHOWN[item.quantity].factor
    if item.quantity == "angle" and edges[-1] - edges[0] > 6.2:
        ax.set_xlim(-180, 180)
        ax.set_xticks([-180, -90, 0, 90, 180])
        return
    both = item.reference.density / item.reference.density.max() + item.simulated.density / max(item.simulated.density.max(), 1e-12)
    seen = np.flatnonzero(both > 2e-3)
    ax.set_xlim(edges[seen[0]] / factor, edges[seen[-1] + 1] / factor)


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for everything that any panel shows."""
    seen = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    if len(seen) > 1:
        figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=len(seen))
