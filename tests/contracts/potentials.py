"""The potentials that must keep the contract of ``test_potentials.py``: adding one is adding a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from mlmd.neighbors import Pairs, neighbors
from mlmd.nn.invariant import InvariantNet
from mlmd.nn.painn import PaiNN
from mlmd.nn.radial import BesselBasis, ExpNormalBasis, GaussianBasis, PolynomialEnvelope
from mlmd.nn.schnet import SchNet
from mlmd.nn.tabulated import TabulatedSchNet
from mlmd.nn.tabulated_painn import TabulatedPaiNN
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.accelerated_bonded import AcceleratedBonded
from mlmd.potentials.accelerated_splines import AcceleratedSplines
from mlmd.potentials.bonded import (
    Bonded,
    CosineAngles,
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    Law,
    PowerRepulsion,
    SplineAngles,
    SplineBonds,
    SplineCosines,
    SplineDihedrals,
    SplineTorsions,
)
from mlmd.potentials.compose import Ensemble, Frozen, Shifted
from mlmd.potentials.coulomb import Coulomb, CoulombDSF
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.external import (
    Bias,
    DoubleWell,
    Harmonic,
    MullerBrown,
    PlanarWall,
    PositionRestraint,
    SphericalWall,
    Umbrella,
    UniformField,
)
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import WCA, Excluding, LennardJones, Morse, Smooth, SoftSphere, Yukawa
from mlmd.potentials.spline import CubicSpline1D, CubicSplinePair, TabulatedPair
from mlmd.potentials.stillinger_weber import StillingerWeberAngles, StillingerWeberPair
from mlmd.system import System

CHAIN = [(0, 1), (1, 2), (2, 3), (3, 4)]


@dataclass(frozen=True)
class Row:
    """One potential under test.

    make: builds it in double precision. molecule: it acts on whole molecules of five beads in a row, not on pairs of any
    particles. mirror: mirror images have equal energy. alike: particles of one type may be exchanged. free: there is no outer
    field, so only distances count. local: nothing is felt beyond the cutoff. extensive: it grows with the system. boundaries: periodic or not, where it is defined.
    """

    name: str
    make: Callable[[], nn.Module]
    molecule: bool = False
    mirror: bool = True
    alike: bool = True
    free: bool = True
    local: bool = True
    extensive: bool = True
    boundaries: tuple[bool, ...] = (False, True)


def _spline() -> nn.Module:
    law = CubicSplinePair(1.0, 4.0, 9, types=[(0, 0), (0, 1), (1, 1), (1, 2)])
    return _shaken(law, 0.1)


def _table() -> nn.Module:
    r = torch.linspace(1.0, 4.0, 40, dtype=torch.float64)
    return TabulatedPair(r, {(0, 0): 2.0 / r**4 - 1.0 / r, (1, 0): 1.0 / r, (2, 2): torch.cos(r)})


def _shaken(module: nn.Module, width: float) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for p in module.parameters():
        p.data += width * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return module


def _net(cls: type, **kwargs: object) -> nn.Module:
    torch.manual_seed(3)
    return _shaken(cls(4.0, features=8, n_types=4, **kwargs).double(), 0.2)


def _table_of(values: list[float]) -> torch.Tensor:
    a, b, c, d, e, f = values
    return torch.tensor([[a, b, c], [b, d, e], [c, e, f]], dtype=torch.float64)


def _lj() -> LennardJones:
    return LennardJones(_table_of([0.1, 0.2, 0.1, 0.05, 0.1, 0.3]), _table_of([1.3, 1.2, 1.4, 1.3, 1.4, 1.5]), 4.0)


def _coordinates() -> InternalCoordinates:
    pairs = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [0, 4]])
    triples = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    return InternalCoordinates(5, pairs, triples, torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]))


def _bonded(*laws: Law) -> nn.Module:
    return Bonded(_coordinates(), laws).double()


def _invariant() -> nn.Module:
    torch.manual_seed(5)
    net = InvariantNet(5, 3, torch.tensor([[0, 1], [1, 2]]), width=8, depth=2).double()
    return _bonded(_shaken(net, 0.3))  # type: ignore[arg-type]


def _bonds() -> Law:
    return HarmonicBonds([0, 1, 2, 3], torch.tensor([5.0, 6.0, 7.0, 8.0]), torch.tensor([1.5, 1.6, 1.5, 1.4]))


def _angles() -> Law:
    return HarmonicAngles([0, 1, 2], torch.tensor([2.0, 3.0, 4.0]), torch.tensor([2.0, 1.9, 1.8]))


def _cosines() -> Law:
    return CosineAngles([0, 2], torch.tensor([2.0, 3.0]), torch.tensor([-0.4, -0.2]))


def _dihedrals() -> Law:
    return FourierDihedrals([0, 1], torch.tensor([[0.1, 0.2], [0.3, -0.1]]), torch.tensor([[0.2, -0.1], [0.1, 0.3]]))


def _wavy(law: Law, width: float = 0.3) -> Law:
    return _shaken(law, width)  # type: ignore[return-value]


def _everything() -> nn.Module:
    return Excluding(_lj(), CHAIN, size=5, hops=2) + _bonded(_bonds(), _dihedrals()) + _net(SchNet, interactions=1)


def _masked_ewald() -> nn.Module:
    return Excluding(Ewald(4.0, accuracy=1e-12), CHAIN, size=5, hops=2)


def _restraint() -> nn.Module:
    places = torch.tensor([[0.0, 0.1, 0.2], [4.0, 1.0, 0.3], [1.0, 2.0, 2.5], [2.0, 1.0, 0.0]], dtype=torch.float64)
    return PositionRestraint([0, 3, 2, 4], places, torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64))


def _biased_distance() -> nn.Module:
    return Bias("distance", (0, 3), Umbrella(1.5, 3.0))


def _biased_dihedral() -> nn.Module:
    return Bias("dihedral", (0, 1, 2, 3), _shaken(CubicSpline1D(-torch.pi, torch.pi, 6, periodic=True), 0.3))


POTENTIALS = [
    Row("LennardJones", lambda: LennardJones(0.2, 1.4, 4.0)),
    Row("LennardJones by types", _lj),
    Row("WCA", lambda: WCA(0.3, 1.9)),
    Row("Morse", lambda: Morse(0.4, 1.3, 1.8, 4.0)),
    Row("Yukawa", lambda: Yukawa(2.0, 0.4, 4.0)),
    Row("SoftSphere", lambda: SoftSphere(0.2, 1.7, 4.0, power=6)),
    Row("Smooth", lambda: Smooth(_lj(), onset=2.0, cutoff=3.5)),
    Row("CubicSplinePair", _spline),
    Row("TabulatedPair", _table),
    Row("SchNet", lambda: _net(SchNet)),
    Row("SchNet, other bases", lambda: _net(SchNet, radial=ExpNormalBasis(4.0, 12), envelope=PolynomialEnvelope(4.0, 3))),
    Row("TabulatedSchNet", lambda: TabulatedSchNet(_net(SchNet))),  # type: ignore[arg-type]
    Row("TabulatedPaiNN", lambda: TabulatedPaiNN(_net(PaiNN))),  # type: ignore[arg-type]
    Row("PaiNN", lambda: _net(PaiNN)),
    Row("PaiNN, other bases", lambda: _net(PaiNN, radial=GaussianBasis(4.0, 9), envelope=PolynomialEnvelope(4.0))),
    Row("StillingerWeberPair", lambda: StillingerWeberPair(0.2, 1.6, a=2.5)),
    Row("StillingerWeberAngles", lambda: StillingerWeberAngles([[0.2, -0.1, 0.3], [0.1, 0.2, -0.15]], [1.0, 2.5], 4.0, 1.6)),
    Row("Sum", lambda: _lj() + _spline() + _net(SchNet, radial=BesselBasis(4.0, 6), interactions=1)),
    Row("Scaled", lambda: 0.3 * _lj()),
    Row("Shifted", lambda: Shifted(_net(SchNet, interactions=1), [0.3, -2.0, 1.0])),
    Row("Frozen", lambda: Frozen(_lj())),
    Row("AcceleratedBonded", lambda: AcceleratedBonded(_bonded(_bonds(), _angles(), _cosines())), molecule=True, alike=False),
    Row(
        "AcceleratedSplines",
        lambda: AcceleratedSplines(
            _bonded(_wavy(SplineBonds([0, 1, 2, 3], 1.0, 2.2, 6)), _wavy(SplineCosines([0, 2], -1.0, 0.4, 8), 0.05))
        ),
        molecule=True,
        alike=False,
    ),
    Row("Accelerated", lambda: Accelerated(_lj(), tolerance=1e-10)),
    Row("Ensemble", lambda: Ensemble(_lj(), _net(SchNet, interactions=1))),
    Row("Excluding", lambda: Excluding(_lj(), CHAIN, size=5, hops=2), alike=False),
    Row("CoulombDSF", lambda: CoulombDSF(4.0, 0.3)),
    Row("CoulombDSF, excluding", lambda: Excluding(CoulombDSF(4.0, 0.3), CHAIN, size=5, hops=2), alike=False, local=False),
    Row("Coulomb", lambda: Coulomb(permittivity=2.0), boundaries=(False,), local=False),
    Row("Coulomb, excluding", lambda: Excluding(Coulomb(), CHAIN, size=5), boundaries=(False,), alike=False, local=False),
    Row("Ewald", lambda: Ewald(4.0, accuracy=1e-12), boundaries=(True,), local=False),
    Row("Ewald, excluding", _masked_ewald, boundaries=(True,), alike=False, local=False),
    Row("Harmonic", lambda: Harmonic([1.0, 2.0, 0.5], [0.1, 0.2, 0.3]), mirror=False, free=False),
    Row("DoubleWell", lambda: DoubleWell(0.1, 3.0), free=False),
    Row("MullerBrown", lambda: MullerBrown(0.01, 6.0), mirror=False, free=False),
    Row("SphericalWall", lambda: SphericalWall(1.0, 2.0, [0.5, 0.0, 1.0]), mirror=False, free=False),
    Row("PlanarWall", lambda: PlanarWall([1.0, 1.0, 0.5], 0.2, 1.5), mirror=False, free=False),
    Row("UniformField", lambda: UniformField([0.1, -0.2, 0.3]), mirror=False, free=False),
    Row("PositionRestraint", _restraint, mirror=False, alike=False, free=False),
    Row("Bias of a distance", _biased_distance, alike=False, local=False, extensive=False),
    Row("Bias of a dihedral", _biased_dihedral, mirror=False, alike=False, local=False, extensive=False),
    Row("HarmonicBonds", lambda: _bonded(_bonds()), molecule=True, alike=False),
    Row("HarmonicAngles", lambda: _bonded(_angles()), molecule=True, alike=False),
    Row("CosineAngles", lambda: _bonded(_cosines()), molecule=True, alike=False),
    Row("FourierDihedrals", lambda: _bonded(_dihedrals()), molecule=True, mirror=False, alike=False),
    Row("PowerRepulsion", lambda: _bonded(PowerRepulsion([4], torch.tensor([3.0]), 0.1)), molecule=True, alike=False),
    Row(
        "SplineBonds",
        lambda: _bonded(_wavy(SplineBonds([0, 1, 2, 3], 1.0, 2.2, 6, groups=[0, 0, 1, 0]))),
        molecule=True,
        alike=False,
    ),
    Row("SplineAngles", lambda: _bonded(_wavy(SplineAngles([0, 2], 8), 0.05)), molecule=True, alike=False),
    Row("SplineCosines", lambda: _bonded(_wavy(SplineCosines([0, 2], -1.0, 0.4, 8), 0.05)), molecule=True, alike=False),
    Row("SplineDihedrals", lambda: _bonded(_wavy(SplineDihedrals([0, 1], 7))), molecule=True, mirror=False, alike=False),
    Row(
        "SplineTorsions",
        lambda: _bonded(_wavy(SplineTorsions([0, 1], [[0, 1], [1, 2]], 7))),
        molecule=True,
        mirror=False,
        alike=False,
    ),
    Row("InvariantNet", _invariant, molecule=True, mirror=False, alike=False),
    Row("bonded + pairs + network", _everything, molecule=True, mirror=False, alike=False),
]


def system_for(row: Row, molecules: int = 2, periodic: bool = False, seed: int = 1) -> System:
    """Neutral molecules of five beads in rows that do not overlap, three types, double precision; open or in a triclinic cell."""
    generator = torch.Generator().manual_seed(seed)
    bond = torch.tensor([1.45, 0.25, 0.1], dtype=torch.float64)
    fold = torch.tensor(
        [[0.0, 1.0, 0.4], [0.0, -1.0, 0.1], [0.0, 1.0, -0.6], [0.0, -0.7, 0.5], [0.0, 0.2, 1.0]], dtype=torch.float64
    )
    row_of_beads = torch.arange(5, dtype=torch.float64)[:, None] * bond + 0.45 * fold
    places = torch.tensor([[0.3, 0.2, 0.1], [0.5, 2.9, 0.4], [0.2, 0.6, 3.1]], dtype=torch.float64)[:molecules]
    x = (places[:, None] + row_of_beads).reshape(-1, 3)
    x = x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    cell = torch.tensor([[9.4, 0.0, 0.0], [1.1, 8.9, 0.0], [-0.7, 1.3, 8.6]], dtype=torch.float64) if periodic else None
    charges = torch.tensor([0.4, -0.3, 0.2, -0.5, 0.2] * molecules, dtype=torch.float64)
    return System.single(x, types=[0, 1, 2, 0, 1] * molecules, cell=cell, charges=charges)


def pairs_for(potential: nn.Module, system: System, skin: float = 0.0) -> Pairs | None:
    """The list a potential asks for."""
    cutoff = float(potential.cutoff)  # type: ignore[arg-type]
    return neighbors(system, cutoff + skin) if cutoff > 0 else None
