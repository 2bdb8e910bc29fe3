"""How fast beads move beside the atoms they stand for: diffusion, turning, and the acceleration factor of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd.frames import Frames
from mlmd.observables import (
    MSD,
    Diffusion,
    Relaxation,
    RelaxationTime,
    centres,
    diffusion_coefficient,
    finite_size_correction,
    fluctuation,
    followed,
    molecules,
    msd,
    orientational,
    radius_of_gyration,
    relaxation_time,
    vector_correlation,
    without_drift,
)
from mlmd.observables.terms import neighbours


@dataclass(frozen=True, eq=False)
class Kinetics:
    """Motion in one trajectory of a liquid, the drift of its centre of mass taken off.

    dt: fs between frames. msd, diffusion: of the centres of mass of molecules. by_type: MSD of the beads of every type.
    correlations, times: relaxation functions and times by name ("bond C1", "bond C2", "end to end", "Rg^2", as far as the
    molecules have them). notes: what could not be had, and what to mistrust.
    """

    dt: float
    msd: MSD
    diffusion: Diffusion
    by_type: dict[str, MSD]
    correlations: dict[str, Relaxation]
    times: dict[str, RelaxationTime]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """A quotient and its standard error; over 1, the beads are the faster."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Acceleration:
    r"""The factor by which beads outrun the atoms: :math:`D_{cg}/D_{ref}`, and :math:`\tau_{ref}/\tau_{cg}` by name.

    A single factor for all of them may be used to stretch the time axis of the beads; factors that differ say that no such
    stretching makes their kinetics right.
    """

    diffusion: Ratio
    relaxation: dict[str, Ratio]
    reference: Kinetics
    beads: Kinetics
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One line per quantity, D in 1e-9 m^2/s and times in ps: reference, beads and their factor, with errors."""
        a, b = self.reference, self.beads
        out = [_row("D / 1e-9 m^2/s", a.diffusion, b.diffusion, self.diffusion, 1e4)]
        return out + [_row(f"tau {n} / ps", a.times[n], b.times[n], r, 1e-3) for n, r in self.relaxation.items()]


def compare_kinetics(
    reference: Frames,
    beads: Frames,
    *,
    window: tuple[float, float] | None = None,
    n_blocks: int = 10,
    viscosity: float | None = None,
) -> Acceleration:
    """The acceleration factor of beads against the atoms, from two trajectories of the same beads.

    Args:
        reference: the atoms mapped to beads, with their times in fs. beads: the simulated beads, of any number of molecules.
        window: first and last time in fs of the fit of D, the same for both; default the last three quarters of a block of each.
        n_blocks: stretches of time for the errors; the longest correlation time must fit into one.
        viscosity: shear viscosity of the reference in eV fs/A^3: the notes then say what its D lacks in a finite box.

    Raises:
        ValueError: molecules of another number of beads, times that are not evenly spaced, too few frames for the blocks, a
            window that the blocks do not hold, a viscosity without ``reference.kT`` and a cell.
    """
    sizes = [torch.bincount(molecules(f)).unique().tolist() for f in (reference, beads)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"reference has molecules of {sizes[0]} particles, beads of {sizes[1]}: map the atoms to beads first")
    a, b = (kinetics(f, window=window, n_blocks=n_blocks) for f in (reference, beads))
    common = [name for name in a.times if name in b.times]
    relaxation = {name: quotient(a.times[name], b.times[name]) for name in common}
    notes = [*(f"reference: {n}" for n in a.notes), *(f"beads: {n}" for n in b.notes)]
    if viscosity is not None:
        notes.append(_finite_size(reference, a.diffusion, viscosity))
    return Acceleration(quotient(b.diffusion, a.diffusion), relaxation, a, b, tuple(notes))


def kinetics(frames: Frames, *, window: tuple[float, float] | None = None, n_blocks: int = 10) -> Kinetics:
    """MSD, diffusion and relaxation of the molecules of one trajectory, with block errors.

    Args:
        frames: beads or atoms with bonds, wrapped or not, ``time`` in fs. window, n_blocks: as in :func:`compare_kinetics`.

    Raises:
        ValueError: times that are not evenly spaced, fewer than six frames a block, a single molecule, a window that the blocks do
            not hold.
    """
    dt = time_step(frames)
    last = len(frames) // n_blocks - 1
    if n_blocks < 2 or last < 5:
        raise ValueError(f"n_blocks={n_blocks}: {len(frames)} frames make blocks of {last + 1}, at least 2 of 6 frames are needed")
    f = followed(frames)
    labels = molecules(f)
    if int(labels.max()) == 0:
        raise ValueError("frames hold one molecule: without the drift of the centre of mass it does not diffuse; give a liquid")
    masses = torch.ones(f.n_atoms) if f.masses is None else f.masses
    x = without_drift(f.positions.double(), masses)
    first, last = (max(1, last // 4), last) if window is None else _in_frames(window, dt, last)
    curve = msd(centres(x, masses, labels), max_lag=last, n_blocks=n_blocks)
    d = diffusion_coefficient(curve, first, last, dt)
    notes = []
    if abs(d.exponent - 1) > 0.1:
        notes.append(
            f"the MSD grows as t^{d.exponent:.2f} from {d.first:g} to {d.last:g} fs: D is that of this range, not of long times"
        )
    types = torch.zeros(f.n_atoms) if f.types is None else f.types
    by_type = {_name(f, types, t): msd(x[:, types == t], max_lag=last, n_blocks=n_blocks) for t in types.unique()}
    correlations, times = {}, {}
    for name, make in _relaxations(x, f, labels, len(frames) // 2, n_blocks).items():
        try:
            correlations[name] = make()
            times[name] = relaxation_time(correlations[name], dt)
        except ValueError as error:
            notes.append(f"no time for {name}: {error}")
            continue
        if not times[name].resolved:
            share = times[name].tail / times[name].value
            notes.append(f"{name}: {share:.0%} of the time is extrapolated, it outlasts a block of the trajectory")
    return Kinetics(dt, curve, d, by_type, correlations, times, tuple(notes))


def time_step(frames: Frames) -> float:
    """Time between frames in fs.

    Raises:
        ValueError: fewer than two frames, or times that are not evenly spaced.
    """
    t = frames.time
    if t is None or len(t) < 2:
        raise ValueError(f"{len(frames)} frame(s): at least two are needed to measure motion")
    steps = t.double().diff()
    if not bool(steps[0] > 0) or not torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-3):
        raise ValueError(f"time: steps from {float(steps.min()):g} to {float(steps.max()):g} fs, they must be even and positive")
    return float(steps.mean())


def quotient(above: Diffusion | RelaxationTime, below: Diffusion | RelaxationTime) -> Ratio:
    """The ratio of two independent measurements; relative errors add in squares. nan where the lower is not positive."""
    if not below.value > 0:
        return Ratio(float("nan"), float("nan"))
    r = above.value / below.value
    return Ratio(r, float(np.hypot(above.error / below.value, r * below.error / below.value)))


def chain_ends(n: int, bonds: list[tuple[int, int]], labels: Tensor) -> list[tuple[int, int]]:
    """The two particles most bonds apart of every molecule of at least two; ties go to the lower numbers."""
    near = neighbours(n, bonds)
    out = []
    for m in range(int(labels.max()) + 1):
        start = int(torch.nonzero(labels == m)[0])
        a = _farthest(near, start)
        b = _farthest(near, a)
        if a != b:
            out.append((min(a, b), max(a, b)))
    return out


def _farthest(near: list[list[int]], start: int) -> int:
    distance, queue = {start: 0}, [start]
    for i in queue:
        for j in near[i]:
            if j not in distance:
                distance[j] = distance[i] + 1
                queue.append(j)
    return max(distance, key=lambda k: (distance[k], -k))


def _relaxations(x: Tensor, f: Frames, labels: Tensor, max_lag: int, n_blocks: int) -> dict[str, Callable[[], Relaxation]]:
    """Relaxation functions that the molecules have, by name."""
    options: dict[str, Any] = dict(max_lag=max_lag, n_blocks=n_blocks)
    out: dict[str, Callable[[], Relaxation]] = {}
    if not f.bonds:
        return out
    i, j = torch.tensor(f.bonds).T
    bonds = x[:, j] - x[:, i]
    out["bond C1"] = lambda: orientational(bonds, 1, **options)
    out["bond C2"] = lambda: orientational(bonds, 2, **options)
    sizes = torch.bincount(labels)
    if int(sizes.max()) < 3:
        return out
    a, b = torch.tensor(chain_ends(f.n_atoms, f.bonds, labels)).T
    out["end to end"] = lambda: vector_correlation(x[:, b] - x[:, a], **options)
    if bool((sizes == sizes[0]).all()):
        order = torch.argsort(labels, stable=True)
        chains = x[:, order].unflatten(1, (len(sizes), int(sizes[0])))
        out["Rg^2"] = lambda: fluctuation(radius_of_gyration(chains).square(), **options)
    return out


def _in_frames(window: tuple[float, float], dt: float, last: int) -> tuple[int, int]:
    first, end = (round(w / dt) for w in window)
    if not 0 < first < end <= last:
        raise ValueError(
            f"window={window}: must begin after 0 and end by {last * dt:g} fs, the length of a block; or make fewer blocks"
        )
    return first, end


def _finite_size(f: Frames, d: Diffusion, viscosity: float) -> str:
    if f.kT is None or f.cell is None:
        raise ValueError("viscosity: the finite-size correction needs reference.kT and a cell")
    edge = float(torch.linalg.det(f.cell.double()).abs().mean()) ** (1 / 3)
    more = finite_size_correction(f.kT, viscosity, edge)
    return (
        f"reference: an infinite box would add {more * 1e4:.3g}e-9 m^2/s ({more / d.value:.0%}) to its D (Yeh and Hummer, cubic box "
        f"of {edge:.3g} A); not added here"
    )


def _name(f: Frames, types: Tensor, t: Tensor) -> str:
    return str(f.topology.atom(int(torch.nonzero(types == t)[0])).name)


def _row(name: str, a: Diffusion | RelaxationTime, b: Diffusion | RelaxationTime, r: Ratio, unit: float) -> dict[str, Any]:
    values = {"reference": a.value * unit, "+-": a.error * unit, "beads": b.value * unit, "+- ": b.error * unit}
    return {"quantity": name, **values, "factor": r.value, "+-  ": r.error}
