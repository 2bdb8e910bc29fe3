"""A classical potential taken apart into laws that other programs know: pair laws, bonded laws, and who is excluded from which.

Sums, factors, frozen copies, ensembles and shifts disappear here, so that a program's writer sees laws only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor, nn

from mlmd.cell import periodic_widths
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.accelerated_bonded import AcceleratedBonded
from mlmd.potentials.accelerated_splines import AcceleratedSplines
from mlmd.potentials.bonded import KINDS, Bonded, Law, SplineTorsions
from mlmd.potentials.compose import Ensemble, Frozen, Scaled, Shifted, Sum
from mlmd.potentials.coulomb import ChargePotential, Coulomb, CoulombDSF, charges_of
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import WCA, Constants, Excluding, PairPotential, Smooth, switch
from mlmd.potentials.spline import CubicSplinePair, TabulatedPair, rows_of
from mlmd.system import System

Pair = tuple[int, int]


class NoFormula(ValueError):
    """A part of a potential that other programs have no formula for; names its class and the ways that are left."""


@dataclass(frozen=True, eq=False)
class PairTerm:
    """``factor`` times a pair law between all particles but the ``excluded`` pairs (i < j)."""

    law: PairPotential
    factor: float
    excluded: frozenset[Pair]

    @property
    def bare(self) -> PairPotential:
        """The law inside all switches."""
        law = self.law
        while isinstance(law, Smooth):
            law = law.law
        return law


@dataclass(frozen=True, eq=False)
class ChargeTerm:
    """``factor`` times a law of charges; of the ``excluded`` pairs (i < j) the bare Coulomb interaction is left out."""

    law: ChargePotential | Coulomb
    factor: float
    excluded: frozenset[Pair]

    @property
    def constant(self) -> float:
        """Strength of the interaction in eV A/e^2, permittivity and factor included.

        Raises:
            ValueError: if it is not positive: other programs scale charges by its root.
        """
        value = self.factor * float(self.law.constant)
        if not value > 0:
            raise ValueError(
                f"factor={self.factor} before {type(self.law).__name__}: other programs know attraction of unlike charges only"
            )
        return value


@dataclass(frozen=True, eq=False)
class BondedTerm:
    """``factor`` times a law over internal coordinates of every molecule."""

    law: Law
    coordinates: InternalCoordinates
    factor: float

    def atoms(self, system: System) -> Tensor:
        """(molecules, K, 2 | 3 | 4) particles of the law's K coordinates in every molecule of ``system``."""
        index = (self.coordinates.pairs, self.coordinates.triples, self.coordinates.quads)[KINDS.index(self.law.kind)]  # type: ignore[arg-type]
        if len(system) % self.coordinates.size:
            raise ValueError(
                f"system has {len(system)} particles, which is no multiple of the {self.coordinates.size} beads of a molecule: "
                "the potential was made for another molecule"
            )
        first = torch.arange(0, len(system), self.coordinates.size)
        return index.cpu()[self.law.rows.cpu()][None] + first[:, None, None]  # type: ignore[index,operator]

    def values(self, name: str) -> Tensor:
        """(K, ...) parameter of the law in double precision, on the CPU."""
        value = getattr(self.law, name).detach().double().cpu()
        return value.reshape(len(self.law.rows), -1)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Terms:
    """All that a classical potential is made of for one system; ``constant`` is an energy in eV that no force comes from."""

    pairs: tuple[PairTerm, ...] = ()
    charges: tuple[ChargeTerm, ...] = ()
    bonded: tuple[BondedTerm, ...] = ()
    constant: float = 0.0

    def __add__(self, other: Terms) -> Terms:
        constant = self.constant + other.constant
        return Terms(self.pairs + other.pairs, self.charges + other.charges, self.bonded + other.bonded, constant)

    @cached_property
    def excluded(self) -> list[Pair]:
        """Pairs that at least one law does not see, in order."""
        terms: list[PairTerm | ChargeTerm] = [*self.pairs, *self.charges]
        return sorted({pair for t in terms for pair in t.excluded})


def seen_among(pairs: Iterable[Pair], term: PairTerm | ChargeTerm) -> list[Pair]:
    """The pairs that a law does see.

    Other programs know one set of exclusions for all laws; so all laws are kept off the union, and given back pair by pair there.
    """
    return [p for p in pairs if p not in term.excluded]


def take_apart(potential: nn.Module, system: System) -> Terms:
    """The terms of a potential for one system.

    Raises:
        ValueError: several systems in one batch.
        NoFormula: a part that is no pair law, law of charges or bonded law of single coordinates, named with its class.
    """
    if system.n_systems != 1:
        raise ValueError(f"system holds {system.n_systems} systems: choose one, for instance system.select([0])")
    return _apart(potential, system, _Within())


@dataclass(frozen=True)
class _Within:
    """What a potential stands inside of."""

    factor: float = 1.0
    excluded: frozenset[Pair] = frozenset()


def _apart(potential: Any, system: System, within: _Within) -> Terms:
    if isinstance(potential, Sum):
        return _sum(list(potential.members), system, within)
    if isinstance(potential, Ensemble):
        return _sum(list(potential.members), system, replace(within, factor=within.factor / len(potential.members)))
    if isinstance(potential, Scaled):
        return _apart(potential.potential, system, replace(within, factor=within.factor * potential.factor))
    if isinstance(potential, Accelerated):  # the law itself, not its table
        return _apart(potential.law, system, within)
    if isinstance(potential, (AcceleratedBonded, AcceleratedSplines)):
        return _apart(potential.bonded, system, within)
    if isinstance(potential, Frozen):
        return _apart(potential.potential, system, within)
    if isinstance(potential, Shifted):
        constant = float(potential.per_type.cpu()[system.types.cpu()].sum())
        return _apart(potential.potential, system, within) + Terms(constant=within.factor * constant)
    if isinstance(potential, Excluding):
        return _apart(potential.law, system, replace(within, excluded=within.excluded | excluded_pairs(potential, len(system))))
    if isinstance(potential, Bonded):
        return Terms(bonded=tuple(_bonded(law, potential.coordinates, within.factor) for law in potential.laws))
    if isinstance(potential, PairPotential) and type(potential).forward is PairPotential.forward:
        return Terms(pairs=(PairTerm(potential, within.factor, within.excluded),))
    if isinstance(potential, (CoulombDSF, Ewald, Coulomb)):
        charges_of(system, potential)
        return Terms(charges=(ChargeTerm(potential, within.factor, within.excluded),))
    raise unsupported(potential)


def _sum(members: list[Any], system: System, within: _Within) -> Terms:
    return reduce(Terms.__add__, (_apart(m, system, within) for m in members))


def _bonded(law: Any, coordinates: InternalCoordinates, factor: float) -> BondedTerm:
    if not isinstance(law, SplineTorsions) and (getattr(law, "kind", None) not in KINDS or not hasattr(law, "u")):
        raise unsupported(law)
    return BondedTerm(law, coordinates, factor)


def unsupported(part: object) -> NoFormula:
    """The error for a part that no other program has a formula for."""
    return NoFormula(
        f"{type(part).__name__} has no formula in other programs: only pair laws and bonded laws of single coordinates do. Run it with "
        "mlmd.md, in OpenMM through mlmd.interop.openmm.to_openmm_python, or in ASE through mlmd.interop.ase.Calculator"
    )


def excluded_pairs(potential: Excluding, n: int) -> frozenset[Pair]:
    """Pairs i < j of ``n`` particles that an :class:`Excluding` leaves out.

    Raises:
        ValueError: if ``n`` is no multiple of its molecules' size.
    """
    size = potential.size
    if n % size:
        raise ValueError(f"Excluding has molecules of size={size}, but the system's {n} particles are no multiple of that")
    template = [(i, j) for i, j in potential.excluded.nonzero().tolist() if i < j]
    return frozenset((first + i, first + j) for first in range(0, n, size) for i, j in template)


def constants(values: Constants, types: list[int]) -> Tensor:
    """(T, T) symmetric table of a law's parameter over the given types, in double precision."""
    x = values.value.detach().double().cpu()
    if x.ndim == 0:
        return x.expand(len(types), len(types))
    if max(types) >= len(x):
        raise ValueError(f"the potential has parameters for types 0 to {len(x) - 1}, but the system has type {max(types)}")
    x = 0.5 * (x + x.T)
    return x[types][:, types]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Cubic polynomials on uniform intervals: u = sum_k c_k t^k with t from 0 to 1 over an interval; straight below the first.

    coefficients (R, K, 4) in eV; row (T, T) of the first axis for every pair of types; start and spacing in A.
    """

    start: float
    spacing: float
    coefficients: Tensor
    row: Tensor


def spline_pieces(law: CubicSplinePair | TabulatedPair, types: list[int]) -> Pieces:
    """The polynomials of a spline law between the given types, exactly."""
    held = law.coefficients.detach().double().cpu()
    c = nn.functional.pad(held, (0, 3, 0, 1)) if isinstance(law, CubicSplinePair) else held
    polynomials = c.unfold(-1, 4, 1) @ law.knots.pieces.double().cpu()
    z = torch.tensor(types)
    row = rows_of(law.table.cpu(), z.repeat_interleave(len(z)), z.repeat(len(z))).reshape(len(z), len(z))
    used, row = row.unique(return_inverse=True)
    return Pieces(law.knots.start, law.knots.spacing, polynomials[used], row)


def sampled_pieces(law: PairPotential, types: list[int], start: float, intervals: int) -> Pieces:
    """Cubic Hermite polynomials through values and slopes of any pair law from ``start`` to its cutoff; error of order spacing^4."""
    r = torch.linspace(start, law.cutoff, intervals + 1, dtype=torch.float64)
    spacing = (law.cutoff - start) / intervals
    rows: list[Tensor] = []
    row = torch.zeros(len(types), len(types), dtype=torch.long)
    for a, b in torch.triu_indices(len(types), len(types)).T.tolist():
        row[a, b] = row[b, a] = len(rows)
        u, slope = _slope(law.pair, r, types[a], types[b])
        u0, u1, s0, s1 = u[:-1], u[1:], slope[:-1] * spacing, slope[1:] * spacing
        rows.append(torch.stack([u0, s0, 3 * (u1 - u0) - 2 * s0 - s1, 2 * (u0 - u1) + s0 + s1], -1))
    return Pieces(start, spacing, torch.stack(rows), row)


def value_and_slope(law: PairPotential, r: Tensor, zi: int, zj: int) -> tuple[Tensor, Tensor]:
    """u S (R,) in eV and its derivative in eV/A at distances ``r`` (R,) up to the cutoff, where they are the limits from inside."""

    def inside(r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        u = law.pair(r, zi, zj)
        return u * switch(r, law.onset, law.cutoff) if law.onset < law.cutoff else u

    return _slope(inside, r, zi, zj)


def interacts(law: PairPotential, zi: int, zj: int) -> bool:
    """Whether a law has anything to say about two types: splines and tables list those that they know."""
    while isinstance(law, Smooth):
        law = law.law
    if not isinstance(law, (CubicSplinePair, TabulatedPair)):
        return True
    return int(rows_of(law.table.cpu(), torch.tensor([zi]), torch.tensor([zj]))) < len(law.types)


def reach(law: PairPotential, zi: int, zj: int) -> float:
    """Distance in A beyond which two types do not interact; WCA ends at 2^(1/6) sigma of the two."""
    if not isinstance(law, WCA):
        return law.cutoff
    types = [zi, zj]
    return min(law.cutoff, 2.0 ** (1.0 / 6.0) * float(constants(law.sigma, types)[0, 1]))


def _slope(function: Any, r: Tensor, zi: int, zj: int) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = r.detach().double().requires_grad_()
        u = function(x, torch.full_like(x, zi, dtype=torch.long), torch.full_like(x, zj, dtype=torch.long))
        (slope,) = torch.autograd.grad(u.sum(), x, allow_unused=True) if u.requires_grad else (None,)
    return u.detach(), torch.zeros_like(x) if slope is None else slope


def reduced_cell(system: System) -> Tensor:
    """(3, 3) cell of one system, double precision, lower triangular with off-diagonal entries of at most half the diagonal ones.

    That is the form in which OpenMM and LAMMPS take a triclinic cell; the lattice is the same.

    Raises:
        ValueError: no volume, or not lower triangular with a positive diagonal (the first vector along x, the second in the xy plane).
    """
    cell = system.cell[0].detach().double().cpu().clone()
    periodic_widths(cell[None], torch.ones(1, 3, dtype=torch.bool))
    if bool((cell.triu(1).abs() > 1e-6 * cell.abs().max()).any()) or bool((cell.diagonal() <= 0).any()):
        raise ValueError(
            f"cell={cell.tolist()}: other programs want the first lattice vector along x and the second in the xy plane; rotate "
            "cell and positions together before (torch.linalg.qr of the transposed cell gives the rotation)"
        )
    cell = cell.tril()
    for row, column in ((2, 1), (2, 0), (1, 0)):
        cell[row] -= cell[column] * (cell[row, column] / cell[column, column]).round()
    return cell
