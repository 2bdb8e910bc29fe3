"""Classical potentials that every door must carry over unchanged, and a small liquid of chains to try them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import Accelerated, accelerated
from mlmd.potentials.bonded import (
    Bonded,
    CosineAngles,
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    PowerRepulsion,
    SplineAngles,
    SplineBonds,
    SplineCosines,
    SplineDihedrals,
    SplineTorsions,
)
from mlmd.potentials.compose import Ensemble, Frozen, Scaled, Shifted
from mlmd.potentials.coulomb import Coulomb, CoulombDSF
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import WCA, Excluding, LennardJones, Morse, PairPotential, Smooth, SoftSphere, Yukawa
from mlmd.potentials.spline import CubicSplinePair, TabulatedPair
from mlmd.system import System
from mlmd.units import amu

SIZE = 5
BONDS = [(i, i + 1) for i in range(SIZE - 1)]


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]


def table(*values: float) -> torch.Tensor:
    """Symmetric (2, 2) or (3, 3) table from its upper triangle, row by row."""
    n = {3: 2, 6: 3}[len(values)]
    out = torch.zeros(n, n, dtype=torch.float64)
    rows, columns = torch.triu_indices(n, n)
    out[rows, columns] = out[columns, rows] = torch.tensor(values, dtype=torch.float64)
    return out


def lennard_jones() -> LennardJones:
    return LennardJones(table(0.01, 0.02, 0.015, 0.005, 0.012, 0.03), table(3.2, 3.4, 3.1, 3.3, 3.5, 3.0), 8.0, onset=6.0)


def spline() -> CubicSplinePair:
    c = 0.05 * torch.randn(3, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return CubicSplinePair(3.5, 8.0, 14, types=[(0, 0), (0, 1), (2, 1)], coefficients=c)


def tabulated() -> TabulatedPair:
    r = torch.linspace(2.5, 7.5, 60, dtype=torch.float64)
    return TabulatedPair(r, {(0, 0): (3.0 / r) ** 9 - 0.1 * torch.cos(r), (1, 2): (3.1 / r) ** 6})


class Gaussian(PairPotential):
    """A pair law that no other program was told about."""

    def pair(self, r: torch.Tensor, zi: torch.Tensor, zj: torch.Tensor) -> torch.Tensor:
        return 0.1 * (1 + zi * zj) * torch.exp(-((r / 4.0) ** 2))


def coordinates() -> InternalCoordinates:
    pairs = torch.tensor([*BONDS, (0, 4), (0, 3), (1, 4)])
    return InternalCoordinates(
        SIZE, pairs, torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]]), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    )


def _of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bonds() -> HarmonicBonds:
    return HarmonicBonds([0, 1, 2, 3], _of(5.0, 6.0, 7.0, 8.0), _of(3.8, 3.7, 3.9, 3.8))


def angles() -> HarmonicAngles:
    return HarmonicAngles([0, 2], _of(0.5, 0.7), _of(2.0, 1.8))


def cosines() -> CosineAngles:
    return CosineAngles([1, 2], _of(0.4, 0.3), _of(-0.4, -1.2))


def dihedrals() -> FourierDihedrals:
    a = torch.tensor([[0.1, 0.02, -0.05], [0.03, -0.1, 0.04]], dtype=torch.float64)
    return FourierDihedrals([1, 0], a, a.flip(1) * 0.7)


def repulsion() -> PowerRepulsion:
    return PowerRepulsion([4, 5, 6], _of(4.0, 3.9, 4.2), epsilon=0.0259, power=10)


def bonded(*laws: nn.Module) -> Bonded:
    return Bonded(coordinates(), laws).double()  # type: ignore[arg-type]


def _random(law):
    held = law.turn if isinstance(law, SplineTorsions) else law
    held.coefficients.data = 0.2 * torch.randn(
        held.coefficients.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    return law


def splines() -> Bonded:
    """Splines of every kind, of bonds and cosines within and beyond their range."""
    return bonded(
        _random(SplineBonds([0, 1, 2, 3], 3.5, 4.1, 6, groups=[0, 1, 1, 0])),
        _random(SplineAngles([0, 2], 8, groups=[0, 1])),
        _random(SplineCosines([0, 1, 2], -0.8, 0.0, 7, groups=[0, 1, 0])),
        _random(SplineDihedrals([1, 0], 6, groups=[0, 1])),
        _random(SplineTorsions([0, 1], [[0, 1], [1, 2]], 9, groups=[0, 0])),
    )


def everything() -> nn.Module:
    """Laws with different exclusions, factors and shifts."""
    apart = Excluding(lennard_jones(), BONDS, SIZE, hops=3) + Excluding(Yukawa(0.4, 0.3, 8.0), BONDS, SIZE, hops=1)
    inner = bonded(bonds(), angles(), cosines(), dihedrals(), repulsion())
    return Shifted(Frozen(apart) + Scaled(inner, 0.7) + 0.5 * Ensemble(tabulated(), spline()), _of(0.3, -1.0, 0.2))


CASES = [
    Case("Lennard-Jones", lambda: LennardJones(0.01, 3.3, 8.0)),
    Case("Lennard-Jones by types", lennard_jones),
    Case("Lennard-Jones cut sharply", lambda: LennardJones(0.01, 3.3, 8.0, onset=8.0)),
    Case("accelerated", lambda: Accelerated(lennard_jones())),
    Case("WCA", lambda: WCA(0.02, table(4.2, 4.4, 3.9, 4.1, 4.3, 4.6))),
    Case("Morse", lambda: Morse(table(0.1, 0.2, 0.3, 0.1, 0.1, 0.2), 1.2, 4.0, 8.0)),
    Case("Yukawa", lambda: Yukawa(2.0, table(0.2, 0.3, 0.4, 0.2, 0.3, 0.2), 8.0)),
    Case("soft spheres", lambda: SoftSphere(0.02, table(4.0, 4.2, 4.1, 3.9, 4.0, 4.3), 8.0, power=9)),
    Case("smooth", lambda: Smooth(lennard_jones(), onset=4.0, cutoff=7.0)),
    Case("cubic splines", spline),
    Case("table", tabulated),
    Case("unknown law", lambda: Gaussian(8.0, onset=5.0)),
    Case("excluded", lambda: Excluding(lennard_jones(), BONDS, SIZE, hops=2)),
    Case("harmonic bonds", lambda: bonded(bonds())),
    Case("accelerated bonds", lambda: accelerated(bonded(bonds()))),
    Case("harmonic angles", lambda: bonded(angles())),
    Case("cosine angles", lambda: bonded(cosines())),
    Case("Fourier dihedrals", lambda: bonded(dihedrals())),
    Case("power repulsion", lambda: bonded(repulsion())),
    Case("everything", everything),
]


def charged() -> nn.Module:
    """Charges and a pair law that exclude different pairs."""
    return Excluding(CoulombDSF(8.0, 0.25, permittivity=2.0), BONDS, SIZE, hops=2) + Excluding(lennard_jones(), BONDS, SIZE, hops=3)


PERIODIC_CASES = [
    Case(
        "Ewald, excluded",
        lambda: Excluding(Ewald(8.0, accuracy=1e-7, permittivity=3.0), BONDS, SIZE, 2) + Excluding(lennard_jones(), BONDS, SIZE),
    ),
]
OPEN_CASES = [Case("Coulomb", lambda: Excluding(Coulomb(permittivity=4.0), BONDS, SIZE, 1) + lennard_jones())]
CASES += [
    Case("damped shifted force", lambda: CoulombDSF(8.0, 0.2)),
    Case("damped shifted force, excluded", lambda: Excluding(CoulombDSF(8.0, 0.2), BONDS, SIZE, hops=2)),
    Case("charges and a law", charged),
]


WHERE = [
    *((c, True) for c in CASES + PERIODIC_CASES),
    *((c, False) for c in [CASES[-4], CASES[-1], *OPEN_CASES]),
]  # and whether periodic


def name(value: Case | bool) -> str:
    """For the names of tests."""
    return value.name if isinstance(value, Case) else ("triclinic" if value else "open")


def liquid(seed: int = 0, periodic: bool = True, molecules: int = 8) -> System:
    """Zigzag chains of five beads of three types on a lattice, all beads displaced at random, in a triclinic cell or in the open."""
    generator = torch.Generator().manual_seed(seed)
    template = torch.tensor([[3.3 * k, 1.9 * (k % 2), 0.6 * (k % 3)] for k in range(SIZE)], dtype=torch.float64)
    place = torch.tensor([[0.0, 6.2 * (m % 3), 6.4 * (m // 3)] for m in range(molecules)], dtype=torch.float64)
    x = (place[:, None] + template).reshape(-1, 3)
    x = x + 0.35 * torch.randn(x.shape, dtype=torch.float64, generator=generator)
    cell = torch.tensor([[30.0, 0.0, 0.0], [2.1, 28.5, 0.0], [-1.7, 3.3, 29.0]], dtype=torch.float64) if periodic else None
    masses = torch.tensor([12.0, 14.0, 16.0], dtype=torch.float64) * amu
    types = torch.tensor([0, 1, 2, 0, 1] * molecules)
    charges = torch.tensor([0.5, -0.3, 0.2, 0.1, -0.5], dtype=torch.float64).repeat(molecules)
    return System.single(x, types=types, masses=masses[types], cell=cell, charges=charges)


def ours(potential: nn.Module, system: System) -> tuple[float, torch.Tensor]:
    """Energy in eV and forces (N, 3) in eV/A."""
    cutoff = float(potential.cutoff)  # type: ignore[arg-type]
    with torch.no_grad():
        out = energy_forces(potential, system, neighbors(system, cutoff) if cutoff else None)
    return float(out.energy), out.forces


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest deviation of a force component over the root mean square force."""
    return float((value - reference).abs().max() / reference.square().mean().sqrt())
