"""An atomistic force field made of the laws here, against OpenMM: alanine dipeptide with Amber ff14SB in the vacuum."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlmd import units
from mlmd.forces import energy_forces
from mlmd.neighbors import neighbors
from mlmd.potentials.bonded import Bonded, FourierDihedrals, HarmonicAngles, HarmonicBonds, Law
from mlmd.potentials.coulomb import Coulomb
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System

mm = pytest.importorskip("openmm")

N, FAR = 22, 60.0


def force_field() -> Any:
    from mlmd.datasets import alanine

    system = alanine.openmm_system()
    for k in reversed(range(system.getNumForces())):
        if isinstance(system.getForce(k), (mm.GBSAOBCForce, mm.CMMotionRemover)):
            system.removeForce(k)
    for k in range(system.getNumForces()):
        system.getForce(k).setForceGroup(k)
    return system


def of_kind(system: Any, kind: str) -> Any:
    return next(f for f in system.getForces() if type(f).__name__ == kind)


def plain(values: Any) -> list[Any]:
    """Indices, and quantities in nm, rad, kJ/mol and e."""
    return [getattr(v, "_value", v) for v in values]


def bonded(system: Any) -> dict[str, Bonded]:
    bonds, angles, torsions = (of_kind(system, f"{k}Force") for k in ("HarmonicBond", "HarmonicAngle", "PeriodicTorsion"))
    b = [plain(bonds.getBondParameters(k)) for k in range(bonds.getNumBonds())]
    a = [plain(angles.getAngleParameters(k)) for k in range(angles.getNumAngles())]
    t = [plain(torsions.getTorsionParameters(k)) for k in range(torsions.getNumTorsions())]
    pairs, triples, quads = (torch.tensor([row[:w] for row in rows]) for rows, w in ((b, 2), (a, 3), (t, 4)))
    coordinates = InternalCoordinates(N, pairs, triples, quads)

    def column(rows: list[Any], k: int) -> Tensor:
        return torch.tensor([row[k] for row in rows], dtype=torch.float64)

    n, phase, strength = column(t, 4).long(), column(t, 5), column(t, 6) * units.kJ_mol
    order = torch.nn.functional.one_hot(n - 1).double() * strength[:, None]
    laws = {
        "HarmonicBond": HarmonicBonds(range(len(b)), column(b, 3) * units.kJ_mol / 100, column(b, 2) * 10),
        "HarmonicAngle": HarmonicAngles(range(len(a)), column(a, 4) * units.kJ_mol, column(a, 3)),
        "PeriodicTorsion": FourierDihedrals(range(len(t)), order * phase.cos()[:, None], order * phase.sin()[:, None]),
    }
    return {name: Bonded(coordinates, [law]) for name, law in laws.items()}


class Scaled14(Law):
    """Lennard-Jones and charges of the pairs three bonds apart, with strengths of their own."""

    def __init__(self, product: Tensor, sigma: Tensor, epsilon: Tensor):
        super().__init__()
        self.product, self.sigma, self.epsilon = product[:, None], sigma[:, None], epsilon[:, None]

    def forward(self, distances: Tensor, angles: Tensor, dihedrals: Tensor) -> Tensor:
        sixth = (self.sigma / distances) ** 6
        return (4 * self.epsilon * (sixth**2 - sixth) + units.coulomb_constant * self.product / distances).sum(0)


def nonbonded(system: Any) -> tuple[Any, Tensor]:
    """The law of all pairs, every atom a type of its own, and the charges."""
    force = of_kind(system, "NonbondedForce")
    q, sigma, epsilon = torch.tensor([plain(force.getParticleParameters(k)) for k in range(N)]).double().unbind(1)
    sigma, epsilon = 10 * sigma, epsilon * units.kJ_mol
    table = (epsilon[:, None] * epsilon).sqrt(), 0.5 * (sigma[:, None] + sigma)
    bonds = [tuple(plain(of_kind(system, "HarmonicBondForce").getBondParameters(k))[:2]) for k in range(N - 1)]
    rows = [plain(force.getExceptionParameters(k)) for k in range(force.getNumExceptions())]
    rows = [r for r in rows if r[4] != 0 or r[2] != 0]
    pairs, values = torch.tensor([r[:2] for r in rows]), torch.tensor([r[2:] for r in rows]).double()
    scaled = Scaled14(values[:, 0], 10 * values[:, 1], values[:, 2] * units.kJ_mol)
    lj = Excluding(LennardJones(*table, cutoff=FAR, onset=FAR), bonds, size=N, hops=3)
    return lj + Excluding(Coulomb(), bonds, size=N, hops=3) + Bonded(InternalCoordinates(N, pairs), [scaled]), q


@pytest.mark.parametrize("kind", ["HarmonicBond", "HarmonicAngle", "PeriodicTorsion", "Nonbonded"])
def test_every_term_of_the_force_field_has_the_forces_of_openmm(kind: str, record_property: Any) -> None:
    """Median relative error of an atom's force over 10 distorted structures: below 1e-6 in double, 1e-5 in single precision."""
    from mlmd.datasets import alanine

    amber = force_field()
    context = mm.Context(amber, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    group = 1 << of_kind(amber, f"{kind}Force").getForceGroup()
    law, charges = nonbonded(amber)
    law = law if kind == "Nonbonded" else bonded(amber)[kind]
    laws = {dtype: copy.deepcopy(law).to(dtype) for dtype in (torch.float64, torch.float32)}
    g, errors = np.random.default_rng(1), {dtype: [] for dtype in laws}
    for _ in range(10):
        x = alanine.start() + 0.01 * g.standard_normal((N, 3))
        context.setPositions(x)
        state = context.getState(getForces=True, groups=group)
        theirs = torch.from_numpy(np.array(state.getForces(asNumpy=True)._value)) * units.kJ_mol / 10
        for dtype, collected in errors.items():
            system = System.single(torch.from_numpy(10 * x), torch.arange(N), charges=charges).to(dtype)
            with torch.no_grad():
                ours = energy_forces(laws[dtype], system, neighbors(system, FAR)).forces
            collected.append((ours - theirs).norm(dim=1) / theirs.norm(dim=1).clamp(min=1e-3))
    medians = {dtype: float(torch.stack(of).median()) for dtype, of in errors.items()}
    record_property("median errors in double and single precision", list(medians.values()))
    assert medians[torch.float64] < 1e-6
    assert medians[torch.float32] < 1e-5
