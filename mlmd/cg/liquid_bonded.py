"""Bonds, angles and dihedrals of a liquid's molecules as splines: their densities, Boltzmann inversion of these, and its iteration.

Terms that join the same types of beads, read from either end, share one spline and are counted together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.cg.priors import molecule_coordinates, one_per_bond, single_molecules
from mlmd.frames import Frames
from mlmd.observables.blocks import block_labels
from mlmd.observables.histogram import Density1D, density
from mlmd.observables.terms import Terms, neighbours
from mlmd.potentials.bonded import Bonded, Law, SplineBonds, SplineCosines, SplineTorsions
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.spline import UniformKnots
from mlmd.system import System

Array = NDArray[np.float64]
Coefficients = tuple[Tensor, ...]
BINS = 48  # of a density
KNOTS = {"bonds": 20, "cosines": 20, "dihedrals": 12, "distances": 16}  # intervals of a spline
MARGIN = 0.1  # of the sampled range, added to its ends
BEND = 1e-5  # weight of second differences of coefficients beside all bins: only where nothing was sampled they decide
LEAST = 1e-4  # share of the largest bin below which a bin is not compared


@dataclass(frozen=True, eq=False)
class AlikeTerms:
    """Terms of one kind ("bonds", "cosines", "dihedrals", "distances" over several bonds) along the same types of beads.

    rows (K,): of the coordinates' distances, angles or dihedrals. angles (K, 2): rows of the angles that dihedrals are made of.
    """

    kind: str
    types: tuple[int, ...]
    rows: Tensor
    angles: Tensor

    @property
    def name(self) -> str:
        """The kind and the types along the term, for instance "bonds 0-1"."""
        return f"{self.kind} {'-'.join(map(str, self.types))}"


def alike_terms(
    n: int, bonds: Iterable[tuple[int, int]], types: Iterable[int], reach: int = 1
) -> tuple[InternalCoordinates, list[AlikeTerms]]:
    """All bonds, angles and dihedrals (one per bond) of a molecule of ``n`` beads with the given types, put together by types; with
    ``reach`` above 1 also the distances over 2, ..., ``reach`` bonds."""
    coordinates, terms = molecule_coordinates(n, list(bonds))
    kinds, row = list(types), {tuple(p): k for k, p in enumerate(coordinates.pairs.tolist())}
    found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    turns = one_per_bond(terms) if len(terms.bonds) else []
    listed = [("bonds", beads, row[tuple(beads)]) for beads in terms.bonds.tolist()]
    listed += [("cosines", beads, k) for k, beads in enumerate(terms.angles.tolist())]
    listed += [("dihedrals", terms.dihedrals[k].tolist(), k) for k in turns]
    listed += [("distances", path, row[min(path[0], path[-1]), max(path[0], path[-1])]) for path in _paths(n, terms, reach)]
    for kind, beads, at in listed:
        along = tuple(kinds[b] for b in beads)
        found.setdefault((kind, min(along, along[::-1])), []).append(at)
    made = [AlikeTerms(*key, torch.tensor(rows), _angles_of(key[0], rows, terms)) for key, rows in found.items()]
    return coordinates, made


def _paths(n: int, terms: Terms, reach: int) -> list[list[int]]:
    """Shortest paths along 2 to ``reach`` bonds, each from its lower end, by length."""
    near = neighbours(n, terms.bonds.tolist())
    ways = {(i, j): [i, j] for i, j in terms.bonds.tolist()} | {(j, i): [j, i] for i, j in terms.bonds.tolist()}
    seen, found = set(ways) | {(i, i) for i in range(n)}, list[list[int]]()
    for _ in range(2, reach + 1):
        longer = {(i, k): [*way, k] for (i, j), way in ways.items() for k in near[j] if (i, k) not in seen}
        seen |= set(longer)
        found += [way for (i, k), way in sorted(longer.items()) if i < k]
        ways = longer
    return found


def _angles_of(kind: str, rows: list[int], terms: Terms) -> Tensor:
    if kind != "dihedrals":
        return torch.zeros(0, 2, dtype=torch.long)
    at = {(min(i, k), j, max(i, k)): row for row, (i, j, k) in enumerate(terms.angles.tolist())}
    quads = terms.dihedrals[rows].tolist()
    return torch.tensor([[at[min(i, k), j, max(i, k)], at[min(j, l), k, max(j, l)]] for i, j, k, l in quads])


@dataclass(frozen=True, eq=False)
class BondedTarget:
    r"""Densities of the bonded terms of a reference, and splines of the terms that are to reproduce them.

    terms: G sets of alike terms of the molecules of ``coordinates.size`` beads. reference: one density each, of the distance in A,
    of the cosine, or of the signed angle. achiral: whether every dihedral counts with its mirror image too. Coefficients of the
    splines are a tuple of G tensors, in eV.
    """

    coordinates: InternalCoordinates
    terms: tuple[AlikeTerms, ...]
    reference: tuple[Density1D, ...]
    achiral: bool = False

    @staticmethod
    def of(frames: Frames, *, achiral: bool = False, reach: int = 1) -> BondedTarget:
        """Measured on reference frames of beads in whole, equal molecules; bead types as the frames have them.

        Args:
            achiral: whether a molecule and its mirror image are the same, so that what differs between them is noise.
            reach: longest path in bonds whose end-to-end distance is a term. Bonds and angles that are correlated, as in beads of
                several atoms, give too narrow a chain without the distances over two (and three) bonds.

        Raises:
            ValueError: molecules of unequal length or of one bead; a reach below 1.
        """
        if reach < 1:
            raise ValueError(f"reach={reach}: must be 1, bonds alone, or more")
        n, bonds, x = single_molecules(frames)
        if n < 2:
            raise ValueError("the molecules have one bead (n_beads=1): there is nothing bonded")
        assert frames.types is not None
        coordinates, terms = alike_terms(n, bonds, frames.types[:n].tolist(), reach)
        coordinates = coordinates.double()
        values = coordinates(x.reshape(-1, 3).double())
        samples = [_pooled(t, values, len(frames), achiral) for t in terms]
        made = [_density(s, _range(t.kind, s)) for t, s in zip(terms, samples)]
        return BondedTarget(coordinates, tuple(terms), tuple(made), achiral)

    @property
    def names(self) -> list[str]:
        """Of the terms."""
        return [t.name for t in self.terms]

    @property
    def sizes(self) -> list[tuple[int, bool]]:
        """Number of coefficients of every term, and whether its coordinate is periodic."""
        return [(k.size, k.periodic) for k in self._knots]

    def measured(self, positions: Tensor, n_blocks: int = 10) -> list[Density1D]:
        """Densities on the bins of the reference of frames (F, N, 3) of whole molecules, block errors over the frames."""
        values = self.coordinates(positions.reshape(-1, 3).double())
        pooled = [_pooled(t, values, len(positions), self.achiral) for t in self.terms]
        return [_density(s, _ends(d), n_blocks) for s, d in zip(pooled, self.reference)]

    def inversion(self, kT: float) -> Coefficients:
        r""":math:`u(q)=-kT\ln[p(q)/J(q)]` with J = r^2 for bonds and 1 for cosines and dihedrals, as splines; zero for distances over
        several bonds, which follow from these but for what iteration finds."""
        out = []
        for k, d in enumerate(self.reference):
            if self.terms[k].kind == "distances":
                out.append(torch.zeros(self._knots[k].size, dtype=torch.float64))
                continue
            seen = d.density > 0
            measure = d.centers**2 if self.terms[k].kind == "bonds" else np.ones_like(d.centers)
            u = -kT * np.log(np.where(seen, d.density / measure, 1.0))
            out.append(self._spline(k, u, np.where(seen, d.density, 0.0)))
        return tuple(out)

    def corrected(self, coefficients: Coefficients, found: list[Density1D], kT: float, damping: float = 1.0) -> Coefficients:
        r"""One Boltzmann iteration, :math:`u_{k+1}(q)=u_k(q)+\alpha\,kT\ln[p_k(q)/p_{ref}(q)]`.

        A least-squares spline through the bins, which count by the lesser of the two densities; where either is empty the
        correction goes on as a straight line.

        Source:
            Reith, Puetz and Mueller-Plathe, J. Comput. Chem. 24, 1624 (2003).
        """
        out = []
        for k, (d, p) in enumerate(zip(self.reference, found)):
            seen = np.minimum(d.density, p.density) > LEAST * d.density.max()
            change = np.log(np.where(seen, p.density, 1.0) / np.where(seen, d.density, 1.0))
            step = self._spline(k, damping * kT * change, np.where(seen, np.minimum(d.density, p.density), 0.0))
            out.append(coefficients[k] + step)
        return tuple(out)

    def bonded(self, coefficients: Coefficients) -> Bonded:
        """The energy of the terms with these coefficients.

        Raises:
            ValueError: another number of them than the splines have.
        """
        laws = [self._law(k, c) for k, c in enumerate(coefficients)]
        return Bonded(self.coordinates, laws).to(torch.float32)

    def overlaps(self, found: list[Density1D]) -> Array:
        """(G,) overlap of each density with the reference, 1 if they are equal."""
        return np.array([float((np.minimum(a.density, b.density) * a.widths).sum()) for a, b in zip(self.reference, found)])

    @cached_property
    def _knots(self) -> list[UniformKnots]:
        made = []
        for t, d in zip(self.terms, self.reference):
            turns = t.kind == "dihedrals"
            low, high = (-np.pi, np.pi) if turns else _ends(d)
            made.append(UniformKnots(low, high, KNOTS[t.kind], periodic=turns))
        return made

    def _spline(self, k: int, values: Array, weights: Array) -> Tensor:
        """(size,) coefficients of the spline nearest to values (B,) at the centres of the bins, less its least value."""
        knots = self._knots[k]
        design = knots.design_matrix(torch.from_numpy(self.reference[k].centers))[0].numpy()
        w = weights / weights.sum()
        bend = np.diff(np.eye(knots.size), 2, axis=0)
        matrix = (design.T * w) @ design + BEND * bend.T @ bend
        c = np.linalg.solve(matrix + 1e-12 * np.eye(knots.size), design.T @ (w * (values - values[w > 0].min())))
        return torch.from_numpy(c)

    def _law(self, k: int, c: Tensor) -> Law:
        rows, groups, knots = self.terms[k].rows, [0] * len(self.terms[k].rows), self._knots[k]
        if tuple(c.shape) != (knots.size,):
            raise ValueError(f"coefficients of {self.terms[k].name} have shape {tuple(c.shape)}, expected ({knots.size},)")
        if self.terms[k].kind == "dihedrals":
            return SplineTorsions(rows, self.terms[k].angles, knots.intervals, groups, c[None])
        law: Callable[..., Law] = SplineCosines if self.terms[k].kind == "cosines" else SplineBonds
        return law(rows, knots.start, knots.stop, knots.intervals, groups, c[None])


class Snapshots:
    """Keeps the positions of what it is shown."""

    def __init__(self) -> None:
        self._seen = list[Tensor]()

    def __call__(self, system: System) -> None:
        """Add one snapshot."""
        self._seen.append(system.positions)

    @property
    def positions(self) -> Tensor:
        """(F, N, 3) of all snapshots so far, in A."""
        return torch.stack(self._seen)


class BondedCorrection(Protocol):
    """One step of a method for bonded terms: better coefficients, from positions (F, N, 3) that the given ones led to."""

    def __call__(self, coefficients: Coefficients, positions: Tensor) -> Coefficients:
        """Coefficients for the next iteration, in eV."""
        ...


@dataclass(frozen=True, eq=False)
class BondedBoltzmannIteration:
    """Every term by itself: :meth:`BondedTarget.corrected`. kT in eV; damping: alpha, below 1 where terms overlap."""

    target: BondedTarget
    kT: float
    damping: float = 1.0

    def __call__(self, coefficients: Coefficients, positions: Tensor) -> Coefficients:
        """Coefficients for the next iteration, in eV."""
        return self.target.corrected(coefficients, self.target.measured(positions), self.kT, self.damping)


def features(target: BondedTarget, positions: Tensor) -> Tensor:
    r"""(M, P) sums over each molecule of all functions of all terms, so that its energy is features . coefficients; molecules of all
    frames (F, N, 3) one after the other. Torsions with their fading."""
    r, theta, phi = target.coordinates(positions.reshape(-1, 3).double())
    out = []
    for terms, knots in zip(target.terms, target._knots):
        q = {"cosines": theta, "dihedrals": phi}.get(terms.kind, r)[terms.rows]
        q = q.cos() if terms.kind == "cosines" else q
        value = knots.design_matrix(q.reshape(-1))[0].reshape(*q.shape, -1)
        if terms.kind == "dihedrals":
            value = value * SplineTorsions.fading(theta[terms.angles]).prod(1)[..., None]
        out.append(value.sum(0))
    return torch.cat(out, 1)


def _pooled(terms: AlikeTerms, values: tuple[Tensor, Tensor, Tensor], frames: int, achiral: bool) -> Array:
    """(F, M K) values of the terms in all molecules of every frame; dihedrals with their negatives if ``achiral``."""
    r, theta, phi = values
    q = {"cosines": theta, "dihedrals": phi}.get(terms.kind, r)[terms.rows]
    q = q.cos() if terms.kind == "cosines" else q
    q = torch.cat([q, -q]) if achiral and terms.kind == "dihedrals" else q
    return q.reshape(len(q), frames, -1).permute(1, 0, 2).reshape(frames, -1).numpy()


def _density(samples: Array, limits: tuple[float, float], n_blocks: int = 10) -> Density1D:
    """Of (F, K) samples, errors from blocks of frames."""
    labels = block_labels((len(samples),), n_blocks)
    return density(samples, bins=BINS, limits=limits, labels=np.broadcast_to(labels[:, None], samples.shape))


def _range(kind: str, samples: Array) -> tuple[float, float]:
    if kind == "dihedrals":
        return -np.pi, np.pi
    low, high = float(samples.min()), float(samples.max())
    wide = MARGIN * (high - low)
    if kind == "cosines":
        return max(-1.0, low - wide), min(1.0, high + wide)
    return max(1e-3, low - wide), high + wide


def _ends(d: Density1D) -> tuple[float, float]:
    return float(d.edges[0]), float(d.edges[-1])
