"""What the auto-encoder learned: assignment through annealing, and the price of a compression."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mlmd import units
from mlmd_widgets import theme

MAX_SNAPSHOTS = 5
MARKERS = "osD^vP"
LINES = (theme.BLUE, theme.ORANGE, theme.GREEN, theme.PURPLE, theme.VERMILION, theme.SKY)


def assignment_annealing(
    history: Any,
    temperatures: Any,
    atom_names: Sequence[str],
    bead_names: Sequence[str] | None = None,
    final: Any = None,
    snapshots: int = MAX_SNAPSHOTS,
) -> Figure:
    """The assignment matrix at a few moments of the annealing, from undecided to one bead per atom.

    history (T, N, n): probability that atom j belongs to bead I at T recorded steps; temperatures (T,). ``final`` (n,): bead of
    every atom in the map that was taken in the end, shown last; default: that of the last snapshot. Atoms are ordered by it, so
    that it is a staircase.
    """
    h, tau = np.asarray(history, dtype=float), np.asarray(temperatures, dtype=float)
    if h.ndim != 3 or len(h) != len(tau) or h.shape[2] != len(atom_names):
        raise ValueError(
            f"history has shape {h.shape} for {len(tau)} temperatures and {len(atom_names)} atoms, expected (T, beads, atoms)"
        )
    n_beads = h.shape[1]
    last = h[-1].argmax(0) if final is None else np.asarray(final)
    order = np.argsort(last, kind="stable")
    picked = _spread(h, min(snapshots, len(h)))
    shown = [(f"T = {tau[k]:.2f}", h[k]) for k in picked]
    if final is not None:
        shown.append(("taken", (np.arange(n_beads)[:, None] == last).astype(float)))
    bead_names = [str(i + 1) for i in range(n_beads)] if bead_names is None else list(bead_names)
    with theme.style():
        width = max(1.15, 0.24 * n_beads + 0.35)
        figure = theme.new_figure(width * len(shown) + 1.6, max(2.4, 0.17 * len(order) + 1.0))
        axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for ax, (title, choice) in zip(axes, shown):
            image = ax.imshow(choice[:, order].T, cmap=theme.WEIGHTS, vmin=0, vmax=1, aspect="auto")
            ax.set_title(title, fontsize=9, fontweight="normal", loc="center")
            ax.set_xticks(range(n_beads), bead_names, fontsize=7 if n_beads > 8 else 8)
            ax.tick_params(length=0)
            for spine in ax.spines.values():
                spine.set_visible(False)
            ax.set_xticks(np.arange(n_beads + 1) - 0.5, minor=True)
            ax.set_yticks(np.arange(len(order) + 1) - 0.5, minor=True)
            ax.tick_params(which="minor", length=0)
            ax.grid(which="minor", color="white", linewidth=0.8)
        axes[0].set_yticks(range(len(order)), [atom_names[j] for j in order], fontsize=7)
        for text, j in zip(axes[0].get_yticklabels(), order):
            text.set_color(_readable(theme.bead_color(int(last[j]))))
            text.set_fontweight("bold")
        axes[0].set_ylabel("atom")
        figure.supxlabel("bead", fontsize=10)
        figure.colorbar(image, ax=axes, label="probability", fraction=0.03, pad=0.02)
    return figure


def annealing_curves(
    steps: Any, temperatures: Any, reconstruction: Any, mean_square_force: Any = None, rho_from: float | None = None
) -> Figure:
    """Reconstruction error, mean square force and temperature while the map is learned.

    reconstruction (T,) in A^2; mean_square_force (T,) in (eV/A)^2; ``rho_from``: the step at which the force term sets in.
    """
    with theme.style():
        figure, axes = theme.panels(1, 2 if mean_square_force is None else 3, 2.9, 2.4)
        steps = np.asarray(steps)
        axes[0].plot(steps, np.asarray(reconstruction, dtype=float), color=theme.BLUE)
        axes[0].set(title="Reconstruction", ylabel="⟨|x − DEx|²⟩ / Å²", ylim=(0, None))
        axes[-1].plot(steps, np.asarray(temperatures), color=theme.VERMILION)
        axes[-1].set(title="Gumbel temperature", ylabel="T", ylim=(0, None))
        if mean_square_force is not None:
            factor, label = units.SHOWN["force^2"]
            axes[1].plot(steps, np.asarray(mean_square_force, dtype=float) / factor, color=theme.GREEN)
            axes[1].set(title="Instantaneous force", ylabel=f"⟨|F|²⟩ / {label}", ylim=(0, None))
        for ax in axes:
            ax.set_xlabel("step")
            if rho_from is not None:
                ax.axvline(rho_from, color=theme.GREY, linestyle=":", linewidth=1)
    return figure


def compression(
    n_beads: Sequence[int],
    rmsd: Dict[str, Sequence[float]],
    mean_square_force: Dict[str, Sequence[float]] | None = None,
    atoms: str = "all atoms",
) -> Figure:
    """Price of a compression: RMSD of the linear decoder, and mean square force, against the number of beads, per kind of map.

    rmsd in A, mean_square_force in (eV/A)^2; both one value per entry of ``n_beads``, NaN where a map does not exist.
    """
    with theme.style():
        figure, axes = theme.panels(1, 1 if mean_square_force is None else 2, 3.6, 2.9)
        for k, (name, values) in enumerate(rmsd.items()):
            axes[0].plot(n_beads, values, marker=MARKERS[k % 6], markersize=5, color=LINES[k % 6], label=name, zorder=9 - k)
        axes[0].set(xlabel="beads N", ylabel=units.label("length", f"RMSD of {atoms}"), title="Reconstruction", ylim=(0, None))
        if mean_square_force is not None:
            factor, label = units.SHOWN["force^2"]
            for k, (name, values) in enumerate(mean_square_force.items()):
                axes[1].plot(
                    n_beads, np.asarray(values, float) / factor, marker=MARKERS[k % 6], markersize=5, color=LINES[k % 6], label=name
                )
            axes[1].set(xlabel="beads N", ylabel=f"⟨F²⟩ / {label}", title="Instantaneous force", ylim=(0, None))
        for ax in axes:
            ax.set_xticks(list(n_beads))
        axes[0].legend()
    return figure


def force_tradeoff(
    rho: Sequence[float], rmsd: Sequence[float], mean_square_force: Sequence[float], atoms: str = "all atoms"
) -> Figure:
    """Reconstruction against mean square force along the weight ``rho`` of the force term: which maps make a smooth landscape."""
    factor, label = units.SHOWN["force^2"]
    force = np.asarray(mean_square_force, dtype=float) / factor
    with theme.style():
        figure, (ax,) = theme.panels(1, 1, 4.4, 3.0)
        ax.plot(force, rmsd, color=theme.PALE, zorder=1)
        ax.scatter(force, rmsd, c=range(len(rho)), cmap="viridis", s=45, zorder=2)
        for r, x, y in zip(rho, force, rmsd):
            ax.annotate(f"ρ = {r:g}", (x, y), textcoords="offset points", xytext=(6, 5), fontsize=8)
        ax.set(xlabel=f"⟨F²⟩ / {label}", ylabel=units.label("length", f"RMSD of {atoms}"), title="Reconstruction against force")
        ax.margins(0.15)
    return figure


def _spread(history: np.ndarray, count: int) -> list[int]:
    """First, last, and in between the snapshots that divide the total change of the matrix evenly (time alone shows plateaus)."""
    if count < 2:
        return [len(history) - 1]
    change = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(history, axis=0)).sum((1, 2)))])
    steps = np.linspace(0, 1, len(history))
    position = 0.5 * steps + 0.5 * (change / change[-1] if change[-1] > 0 else steps)
    return sorted({int(np.abs(position - t).argmin()) for t in np.linspace(0, 1, count)})


def _readable(color: str) -> tuple[float, float, float]:
    """A colour dark enough to be read as text on white."""
    from matplotlib.colors import to_rgb

    r, g, b = to_rgb(color)
    luminance = 0.3 * r + 0.59 * g + 0.11 * b
    f = min(1.0, 0.5 / max(luminance, 1e-9))
    return r * f, g * f, b * f
