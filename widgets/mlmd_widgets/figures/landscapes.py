"""Free energy surfaces: reference, coarse-grained, and their difference, on common scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlmd import units
from mlmd.analysis import FES, difference
from mlmd.observables import Coordinate
from mlmd_widgets import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

CEILING = 6.0  # kcal/mol: higher bins share the last colour
SPREAD = 2.0  # kcal/mol, largest difference shown
UNSEEN = "#EFEFEF"
TICKS = [-180, -90, 0, 90, 180]


def surface_values(fes: FES) -> np.ndarray:
    """Free energy above its minimum in the unit shown (kcal/mol), NaN where nothing was sampled; (bins x, bins y)."""
    f = np.asarray(fes.free_energy, dtype=float) / units.SHOWN["free energy"].factor
    f = np.where(np.isfinite(f), f, np.nan)
    return f - np.nanmin(f)


def fes_triple(
    reference: FES, cg: FES, xlabel: str = "φ", ylabel: str = "ψ", quantity: str = "angle", ceiling: float = CEILING
) -> Figure:
    """Reference | coarse-grained | difference; the first two share one scale, grey bins were not sampled.

    -kT ln p is defined up to a constant; see :func:`mlmd.analysis.difference` for the one chosen in the difference.
    """
    with theme.style():
        figure = theme.new_figure(10.2, 3.3)
        draw_triple(figure, figure.add_gridspec(1, 3), reference, cg, xlabel, ylabel, quantity, ceiling)
    return figure


def draw_triple(
    figure: Figure,
    grid: Any,
    reference: FES,
    cg: FES,
    xlabel: str,
    ylabel: str,
    quantity: str = "angle",
    ceiling: float = CEILING,
) -> None:
    """The three panels of :func:`fes_triple` in a grid of one row of a figure."""
    a, b = surface_values(reference), surface_values(cg)
    if a.shape != b.shape:
        raise ValueError(f"reference has {a.shape} bins and cg {b.shape}: histogram both with the same edges")
    axes = list(grid.subplots(sharey=True))
    for ax, values, title in ((axes[0], a, "Reference"), (axes[1], b, "Coarse-grained")):
        image = _surface(ax, reference.edges, np.minimum(values, ceiling), theme.LANDSCAPE, 0, ceiling, quantity)
        _contours(ax, reference.edges, values, ceiling, quantity)
        ax.set_title(title)
    label = units.SHOWN["free energy"].label
    figure.colorbar(image, ax=axes[:2], label=f"F / {label}", pad=0.02, extend="max", shrink=0.86)
    delta = difference(cg, reference)[0] / units.SHOWN["free energy"].factor
    image = _surface(axes[2], reference.edges, np.clip(delta, -SPREAD, SPREAD), theme.DIFFERENCE, -SPREAD, SPREAD, quantity)
    axes[2].set_title("Difference")
    figure.colorbar(image, ax=axes[2], label=f"ΔF / {label}", pad=0.04, extend="both", shrink=0.86)
    unit = units.SHOWN[quantity].label
    for ax in axes:
        ax.set_xlabel(f"{xlabel} / {unit}")
    axes[0].set_ylabel(f"{ylabel} / {unit}")


def axis_name(coordinate: Coordinate) -> str:
    """Name of a coordinate as written on an axis, without the word for its kind."""
    return theme.pretty(coordinate.name.removeprefix(coordinate.kind).strip() or coordinate.name)


def fes_interactive(
    surfaces: Sequence[tuple[str, FES]], xlabel: str = "φ", ylabel: str = "ψ", quantity: str = "angle", ceiling: float = CEILING
) -> go.Figure:
    """The surfaces side by side to point at: the value and its error in every bin; panels zoom together."""
    from plotly.subplots import make_subplots

    factor, unit = units.SHOWN[quantity]
    energy = units.SHOWN["free energy"]
    figure = make_subplots(
        1,
        len(surfaces),
        subplot_titles=[name for name, _ in surfaces],
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.04,
    )
    for k, (_, fes) in enumerate(surfaces, 1):
        f = surface_values(fes)
        error = np.asarray(fes.error, dtype=float) / energy.factor
        x, y = (np.round((e[1:] + e[:-1]) / 2 / factor, 2) for e in map(np.asarray, fes.edges))
        text = [[_hover(f[i, j], error[i, j], energy.label) for i in range(f.shape[0])] for j in range(f.shape[1])]
        z = np.minimum(f, ceiling).round(2).T
        figure.add_heatmap(
            row=1,
            col=k,
            x=x,
            y=y,
            z=[[v if np.isfinite(v) else None for v in line] for line in z.tolist()],  # NaN is no JSON
            text=text,
            hovertemplate=f"{xlabel} %{{x:.0f}}, {ylabel} %{{y:.0f}}<br>%{{text}}<extra></extra>",
            zmin=0,
            zmax=ceiling,
            colorscale="Viridis",
            showscale=k == len(surfaces),
            colorbar={"title": {"text": f"F / {energy.label}", "side": "right"}, "thickness": 14},
        )
        figure.update_xaxes(title_text=f"{xlabel} / {unit}", row=1, col=k, constrain="domain")
    figure.update_yaxes(title_text=f"{ylabel} / {unit}", row=1, col=1)
    if quantity == "angle":
        figure.update_xaxes(tickvals=TICKS)
        figure.update_yaxes(tickvals=TICKS)
    figure.update_layout(
        template="plotly_white",
        width=90 + 400 * len(surfaces),
        height=430,
        margin=dict(l=60, r=10, t=40, b=50),
        plot_bgcolor=UNSEEN,
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def _hover(value: float, error: float, unit: str) -> str:
    if not np.isfinite(value):
        return "not sampled"
    return f"{value:.2f} ± {error:.2f} {unit}" if np.isfinite(error) else f"{value:.2f} {unit}"


def _surface(ax: Axes, edges: Any, values: np.ndarray, cmap: str, low: float, high: float, quantity: str) -> Any:
    factor = units.SHOWN[quantity].factor
    x, y = (np.asarray(e) / factor for e in edges)
    ax.set_facecolor(UNSEEN)
    image = ax.pcolormesh(x, y, np.ma.masked_invalid(values).T, cmap=cmap, vmin=low, vmax=high, rasterized=True)
    if quantity == "angle" and x[-1] - x[0] > 350:
        ax.set_xticks(TICKS)
        ax.set_yticks(TICKS)
    if quantity == "angle":
        ax.set_aspect("equal")
    for side in ("top", "right"):
        ax.spines[side].set_visible(True)
    return image


def _contours(ax: Axes, edges: Any, values: np.ndarray, ceiling: float, quantity: str) -> None:
    """A line every kcal/mol; not through bins that were never seen."""
    factor = units.SHOWN[quantity].factor
    x, y = ((np.asarray(e)[1:] + np.asarray(e)[:-1]) / 2 / factor for e in edges)
    masked = np.ma.masked_invalid(values)
    ax.contour(x, y, masked.T, levels=np.arange(1, ceiling), colors="white", linewidths=0.5, alpha=0.7)
