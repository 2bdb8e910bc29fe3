"""How particles move: mean square displacements with their fits, velocity autocorrelations with their integrals, relaxation."""

from __future__ import annotations

from collections.abc import Mapping as Dict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlmd import units
from mlmd.analysis.kinetics import Acceleration, Kinetics
from mlmd.observables import VACF, green_kubo
from mlmd.observables.blocks import Array
from mlmd_widgets import theme
from mlmd_widgets.blocks import with_error

BAND = 2.0  # standard errors shown on either side
COLORS = (theme.REFERENCE, theme.CG, *theme.BEADS[1:4])


def displacements(curves: Dict[str, Kinetics]) -> Figure:
    """MSD of the centres of mass of molecules with its error band of two standard errors, and the line that D comes from.

    Raises:
        ValueError: without a curve.
    """
    _some(curves, "curves")
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 6.4, 3.6)
        for (name, k), color in zip(curves.items(), COLORS):
            t, d = k.msd.lag * k.dt, k.diffusion
            told = f"{name}: D = ({d.value * 1e4:.3g} ± {d.error * 1e4:.1g}) × 10⁻⁹ m²/s"  # 1 A^2/fs = 1e-5 m^2/s
            _band(ax, t, k.msd.msd, k.msd.error, color, told)
            fitted = t[(t >= d.first * 0.999) & (t <= d.last * 1.001)]
            ax.plot(_ps(fitted), d.line(fitted), color=theme.BLACK, linestyle="--", linewidth=1.1)
        ax.plot([], [], color=theme.BLACK, linestyle="--", linewidth=1.1, label="fit c + 6 D t")
        ax.set(
            xlabel=units.label("time", "t"), ylabel="MSD / Å²", title="Centres of mass of molecules", xlim=(0, None), ylim=(0, None)
        )
        ax.legend(loc="upper left")
    return figure


def velocity_correlation(curves: Dict[str, tuple[VACF, float]]) -> Figure:
    """<v(0).v(t)> over its value at 0, and the running diffusion coefficient, with bands of two standard errors.

    Args:
        curves: by name, the curve (velocities in A/fs) and the time between its frames in fs.

    Raises:
        ValueError: without a curve.
    """
    _some(curves, "curves")
    with theme.style():
        figure, (left, right) = theme.panels(1, 2, 3.9, 3.1)
        for (name, (c, dt)), color in zip(curves.items(), COLORS):
            _band(left, c.lag * dt, c.vacf / c.vacf[0], c.error / c.vacf[0], color, name)
            d = green_kubo(c, dt)
            _band(right, d.time, d.value * 1e4, d.error * 1e4, color, name)
        left.axhline(0, color=theme.GREY, linewidth=0.8)
        left.set(xlabel=units.label("time", "t"), ylabel="⟨v(0)·v(t)⟩ / ⟨v²⟩", title="Velocity autocorrelation", xlim=(0, None))
        right.set(xlabel=units.label("time", "t"), ylabel="D(t) / 10⁻⁹ m²/s", title="Its integral", xlim=(0, None))
        left.legend(loc="upper right")
    return figure


def relaxations(curves: Dict[str, Kinetics], most: float = 5.0) -> Figure:
    """One panel per relaxation function: the trajectories by name, bands of two standard errors, and fits as thin dashed lines.

    Args:
        most: times are shown up to this many relaxation times of the slowest.

    Raises:
        ValueError: no trajectory has a relaxation function.
    """
    names = list(dict.fromkeys(n for k in curves.values() for n in k.correlations))
    _some(names, "curves with relaxation functions")
    with theme.style():
        figure, axes = theme.panels(1, len(names), 3.1, 2.9)
        for ax, quantity in zip(axes, names):
            end = 0.0
            any_time = any(quantity in k.times for k in curves.values())
            for (name, k), color in zip(curves.items(), COLORS):
                if quantity not in k.correlations:
                    continue
                c, tau = k.correlations[quantity], k.times.get(quantity)
                t = c.lag * k.dt
                told = (
                    name
                    if tau is None
                    else f"{name}: {with_error(units.shown(tau.value, 'time'), units.shown(tau.error, 'time'))} ps"
                )
                _band(ax, t, c.c, c.error, color, told)
                if tau is not None:
                    fine = np.linspace(0, min(most * tau.value, t[-1]), 100)[1:]
                    ax.plot(_ps(fine), tau.curve(fine), color=theme.BLACK, linestyle="--", linewidth=0.9)
                if tau is not None or not any_time:
                    end = max(end, t[-1] if tau is None else min(most * tau.value, t[-1]))
            ax.axhline(0, color=theme.GREY, linewidth=0.8)
            ax.set(
                xlabel=units.label("time", "t"),
                ylabel="C(t)",
                title=theme.pretty(quantity).replace("^2", "²"),
                xlim=(0, float(_ps(end))),
                ylim=(-0.15, 1.05),
            )
            ax.legend(loc="upper right", fontsize=8)
    return figure


def acceleration(result: Acceleration) -> Figure:
    """The factors by which beads outrun the atoms, one bar for each quantity, with one standard error; 1 is the atoms' own pace."""
    factors = {"D": result.diffusion, **{f"τ {n}": r for n, r in result.relaxation.items()}}
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 5.2, 0.5 * len(factors) + 1.2)
        y = np.arange(len(factors))[::-1]
        values, errors = ([getattr(r, f) for r in factors.values()] for f in ("value", "error"))
        ax.barh(y, values, xerr=errors, color=theme.CG, height=0.6, error_kw=dict(ecolor=theme.BLACK, capsize=3))
        ax.axvline(1, color=theme.REFERENCE, linestyle="--", linewidth=1.2)
        ax.set_yticks(y, [f.replace("^2", "²") for f in factors])
        ax.set(xlabel="beads / atoms (times as fast)", title="Acceleration", xlim=(0, None))
    return figure


def _ps(t: Array | float) -> Array:
    return np.asarray(t) / units.SHOWN["time"].factor


def _band(ax: Axes, t: Array, y: Array, error: Array, color: str, label: str) -> None:
    ax.plot(_ps(t), y, color=color, label=label, linewidth=1.5)
    ax.fill_between(_ps(t), y - BAND * error, y + BAND * error, color=color, alpha=0.25, linewidth=0)


def _some(things: object, name: str) -> None:
    if not things:
        raise ValueError(f"{name}: none are given; give at least one by name")
