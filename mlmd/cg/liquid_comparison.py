"""A liquid of beads beside its atoms: structure between molecules and within them, pressure, motion, and the box that was enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.analysis.compare import Overlay, shared_limits
from mlmd.analysis.kinetics import Acceleration, chain_ends, compare_kinetics, time_step
from mlmd.cg.liquid_bonded import BondedTarget
from mlmd.cg.liquid_molecules import LiquidMolecules, centre_rdf
from mlmd.cg.target_rdf import first_peak
from mlmd.forces import Potential, energy_forces
from mlmd.frames import Frames
from mlmd.neighbors import neighbors
from mlmd.observables import VACF, centres, followed, molecules, vacf, without_drift
from mlmd.observables.blocks import block_labels, block_mean
from mlmd.observables.geometry import radius_of_gyration
from mlmd.observables.histogram import Density1D, density
from mlmd.observables.rdf import RDF, rdf

BLOCKS = 5  # of every trajectory, for standard errors
KINDS = {"bonds": ("bond", "length"), "cosines": ("angle", "angle"), "dihedrals": ("dihedral", "angle")}
FINEST, VACF_TIME = 100.0, 2000.0  # fs: frames for velocities may be so far apart, and their autocorrelation is followed so long
LETTERS = "abcdefghijklmnopqrstuvwxyz"
EVALUATED = 100  # frames that pressure and energy are taken from


@dataclass(frozen=True)
class Measured:
    """A mean with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class RunSummary:
    """Means over a run: pressure in eV/A^3, potential energy per bead in eV, with errors over blocks of time; n beads, frames."""

    pressure: Measured
    energy: Measured
    n_beads: int
    frames: int


@dataclass(frozen=True, eq=False)
class LiquidComparison:
    """A bead liquid laid over its atoms.

    rdfs: g(r) of every pair of bead types and, for molecules of several beads, of their centres ("centres of mass"): reference,
    simulated; pairs within ``hops`` bonds are not counted. large: g(r) in the small and in the enlarged box. overlays: densities
    of bonds, cosines of angles and dihedrals, put together by types. motion: None where a run is too short for it; ``notes`` says why.
    small, box: means over the two runs; ``box`` is None without an enlarged one. mean_squares: of radius of gyration and end-to-end distance,
    A^2, for molecules of at least three beads. velocities: autocorrelations of the centres of mass of molecules ("reference", "simulated")
    with the fs between their frames; empty where frames are too far apart.
    """

    rdfs: dict[str, tuple[RDF, RDF]]
    overlays: tuple[Overlay, ...]
    small: RunSummary
    motion: Acceleration | None = None
    large: dict[str, tuple[RDF, RDF]] = field(default_factory=dict)
    box: RunSummary | None = None
    mean_squares: dict[str, tuple[Measured, Measured]] = field(default_factory=dict)
    velocities: dict[str, tuple[VACF, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain numbers with errors, ready for JSON; pressure in bar, energies in eV."""
        out: dict[str, Any] = {"rdf": {name: apart(*pair) for name, pair in self.rdfs.items()}}
        out["overlaps"] = {o.name: o.overlap for o in self.overlays}
        out["mean squares / A^2"] = {k: [a.value, a.error, b.value, b.error] for k, (a, b) in self.mean_squares.items()}
        out["pressure / bar"] = [self.small.pressure.value / units.bar, self.small.pressure.error / units.bar]
        out["energy per bead / eV"] = [self.small.energy.value, self.small.energy.error]
        if self.box is not None:
            out["enlarged"] = {name: apart(*pair) for name, pair in self.large.items()}
            out["enlarged, energy per bead / eV"] = [self.box.energy.value, self.box.energy.error]
        out["motion"] = [] if self.motion is None else self.motion.rows()
        return out | {"notes": list(self.notes)}


@dataclass(frozen=True, eq=False)
class Structure:
    """What is counted in a liquid: g(r) of all pairs of ``types`` up to ``r_max`` A in ``bins`` bins, without those that molecules leave
    out, and the densities of bonds, angles and dihedrals. called: letter of every type of bead."""

    types: tuple[tuple[int, int], ...]
    called: dict[int, str]
    r_max: float
    bins: int
    molecules: LiquidMolecules | None
    bonded: BondedTarget | None

    @staticmethod
    def of(beads: Frames, molecules: LiquidMolecules | None, bonded: BondedTarget | None, r_max: float, bins: int) -> Structure:
        """All pairs of the bead types of the frames that have a pair to count."""
        assert beads.types is not None
        called = {int(t): LETTERS[k % len(LETTERS)] for k, t in enumerate(beads.types.unique())}
        types = tuple((a, b) for a in called for b in called if a <= b)
        return Structure(types, called, r_max, bins, molecules, bonded)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the pairs of types."""
        return tuple(f"{self.called[a]}–{self.called[b]}" for a, b in self.types)

    def along(self, types: Sequence[int]) -> str:
        """Name of a bonded term by its types: "a–b–b"."""
        return "–".join(self.called[t] for t in types)

    def rdfs(self, frames: Frames) -> dict[str, RDF]:
        """g(r) by name with errors from blocks of time, and for molecules of several beads that of their centres of mass."""
        grid: dict[str, Any] = {"r_max": self.r_max, "bins": self.bins, "n_blocks": BLOCKS}
        out: Any = () if self.molecules is None else self.molecules.left_out(frames.n_atoms)
        found = {
            name: rdf(frames, between=pair, types=frames.types, exclude=out, **grid) for name, pair in zip(self.names, self.types)
        }
        return found if self.molecules is None else found | {"centres of mass": centre_rdf(frames, **grid)}

    def overlays(self, reference: Frames, simulated: Frames) -> tuple[Overlay, ...]:
        """Densities of the bonded terms, those between the same types together; none for single beads."""
        if self.bonded is None:
            return ()
        both = [self.bonded.coordinates(f.positions.reshape(-1, 3).double()) for f in (reference, simulated)]
        out = []
        for term in self.bonded.terms:
            kind, quantity = KINDS[term.kind]
            column = list(KINDS).index(term.kind)
            a, b = (q[column][term.rows].reshape(len(term.rows), len(f), -1) for q, f in zip(both, (reference, simulated)))
            limits = (-np.pi, np.pi) if kind == "dihedral" else shared_limits(a.numpy(), b.numpy())
            name = f"{kind} {self.along(term.types)}"
            out.append(Overlay(name, kind, quantity, _density(a, limits), _density(b, limits)))
        both_sizes = [self.sizes(f) for f in (reference, simulated)]
        for name, kind in (("radius of gyration", "rg"), ("end-to-end distance", "distance")):
            if name in both_sizes[0]:
                a, b = (sizes[name][None] for sizes in both_sizes)
                limits = shared_limits(a.numpy(), b.numpy())
                out.append(Overlay(name, kind, "length", _density(a, limits), _density(b, limits)))
        return tuple(out)

    def sizes(self, frames: Frames) -> dict[str, Tensor]:
        """(F, M) radius of gyration (by mass) and end-to-end distance of whole molecules of at least three beads, in A, by name."""
        if self.molecules is None or self.molecules.size < 3:
            return {}
        n, bonds = self.molecules.size, list(self.molecules.bonds)
        x = frames.positions.double().unflatten(1, (-1, n))
        ((a, b),) = chain_ends(n, bonds, torch.zeros(n, dtype=torch.long))
        masses = None if frames.masses is None else frames.masses[:n].double()
        return {"radius of gyration": radius_of_gyration(x, masses), "end-to-end distance": (x[:, :, b] - x[:, :, a]).norm(dim=-1)}

    def mean_squares(self, reference: Frames, simulated: Frames) -> dict[str, tuple[Measured, Measured]]:
        """Mean squares of the sizes in A^2, reference and simulated, with errors from blocks of time; empty below three beads."""
        both = [{k: v.square().mean(1).numpy() for k, v in self.sizes(f).items()} for f in (reference, simulated)]
        measured = [{k: Measured(*block_mean(v, BLOCKS)) for k, v in one.items()} for one in both]
        return {k: (measured[0][k], measured[1][k]) for k in measured[0]}


def _density(values: Tensor, limits: tuple[float, float]) -> Density1D:
    """Of (K, F, M) values of K terms in F frames of M molecules, errors from blocks of frames."""
    labels = np.broadcast_to(block_labels((values.shape[1],), BLOCKS)[None, :, None], values.shape)
    return density(values, bins=60, limits=limits, labels=labels)


def apart(reference: RDF, simulated: RDF) -> dict[str, float]:
    """Mean and largest abs difference of two g(r) from the first distance where either is positive, and the mean to expect of Gaussian
    numbers with their errors."""
    seen = (reference.g > 0) | (simulated.g > 0)
    d, noise = np.abs(simulated.g - reference.g)[seen], np.hypot(reference.error, simulated.error)[seen]
    return {"mean": float(d.mean()), "max": float(d.max()), "noise": float((2 / np.pi) ** 0.5 * np.nanmean(noise))}


def summary_of(frames: Frames, potential: Potential, kT: float) -> RunSummary:
    r"""Pressure :math:`P=NkT/V-\mathrm{tr}\,\sigma` (sigma: mean stress of the potential, over three) and energy per bead, from
    at most ``EVALUATED`` frames."""
    some = frames[:: max(1, len(frames) // EVALUATED)]
    volume = [float(torch.linalg.det(c.double()).abs()) for c in some.cell]  # type: ignore[union-attr]
    pressures, energies = [], []
    for k in range(len(some)):
        system = some.system(k).to(torch.float32)
        pairs = neighbors(system, potential.cutoff) if potential.cutoff > 0 else None
        with torch.no_grad():
            now = energy_forces(potential, system, pairs, stress=True)
        assert now.stress is not None
        pressures.append(some.n_atoms * kT / volume[k] - float(now.stress.double().diagonal(dim1=-2, dim2=-1).sum()) / 3)
        energies.append(float(now.energy) / some.n_atoms)
    p, e = (Measured(*block_mean(np.array(v), BLOCKS)) for v in (pressures, energies))
    return RunSummary(p, e, frames.n_atoms, len(frames))


def motion_of(reference: Frames, simulated: Frames) -> tuple[Acceleration | None, tuple[str, ...]]:
    """The acceleration of beads against atoms over one window of time that blocks of both hold, with notes; of fewer blocks than
    ``BLOCKS`` where the runs are short, and None where they are too short for any."""
    reason = ""
    for n_blocks in range(BLOCKS, 1, -1):
        step = max(time_step(f) for f in (reference, simulated))
        last = min((len(f) // n_blocks - 1) * time_step(f) for f in (reference, simulated))
        try:
            motion = compare_kinetics(reference, simulated, window=(max(step, last / 4), last), n_blocks=n_blocks)
        except ValueError as error:
            reason = reason or str(error)
            continue
        few = () if n_blocks == BLOCKS else (f"the runs are short: errors of motion are from {n_blocks} blocks of time only",)
        return motion, (*few, *motion.notes)
    return None, (f"motion could not be compared: {reason}",)


def velocity_correlations(reference: Frames, simulated: Frames) -> dict[str, tuple[VACF, float]]:
    """Autocorrelation of the velocities of molecules' centres of mass, drift taken off, up to ``VACF_TIME``, with the fs between frames.

    Velocities are differences between frames, which smears the curve over the time between them; frames further apart than
    ``FINEST`` give none.
    """
    out = {}
    for name, frames in (("reference", reference), ("simulated", simulated)):
        dt = time_step(frames)
        lags = min(round(VACF_TIME / dt), (len(frames) - 1) // BLOCKS - 1)
        if dt > FINEST or lags < 5:
            return {}
        f = followed(frames)
        assert f.masses is not None
        x = centres(without_drift(f.positions.double(), f.masses), f.masses, molecules(f))
        out[name] = (vacf(x.diff(dim=0) / dt, max_lag=lags, n_blocks=BLOCKS), dt)
    return out


def peak_of(g: RDF) -> tuple[float, float]:
    """Distance in A and height of the first peak."""
    k = first_peak(g.g)
    return float(g.r[k]), float(g.g[k])
