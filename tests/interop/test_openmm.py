"""A potential in OpenMM is the same potential: energies and forces of random configurations, units, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.cell import wrap
from mlmd.interop.openmm import molecules, positions_nm, to_openmm, to_openmm_python
from mlmd.nn.invariant import InvariantNet
from mlmd.nn.schnet import SchNet
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.compose import Sum
from mlmd.potentials.pair import WCA, Excluding, LennardJones
from mlmd.system import System
from tests.interop.cases import (
    BONDS,
    SIZE,
    WHERE,
    Case,
    bonded,
    bonds,
    everything,
    lennard_jones,
    liquid,
    name,
    ours,
    relative,
    splines,
)

mm = pytest.importorskip("openmm")
mu = pytest.importorskip("openmm.unit")


def context(system: Any, positions: Any, platform: str = "Reference", integrator: Any = None) -> Any:
    out = mm.Context(system, integrator or mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(platform))
    out.setPositions(positions)
    return out


def theirs(made: Any, system: System, platform: str = "Reference") -> tuple[float, torch.Tensor]:
    """Energy in eV and forces in eV/A."""
    state = context(made, positions_nm(system), platform).getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(mu.kilojoule_per_mole) * units.kJ_mol
    forces = state.getForces(asNumpy=True).value_in_unit(mu.kilojoule_per_mole / mu.angstrom) * units.kJ_mol
    return energy, torch.tensor(forces)


@pytest.mark.parametrize(("case", "periodic"), WHERE, ids=name)
def test_energies_and_forces_are_those_of_openmm(case: Case, periodic: bool) -> None:
    potential = case.make()
    system = liquid(1, periodic)
    (energy, forces), (e, f) = ours(potential, system), theirs(to_openmm(potential, system)[0], system)
    approximate = "Ewald" in case.name or case.name == "accelerated"  # a particle mesh there, a table here
    tolerance = 1e-5 if approximate else 1e-8
    assert e == pytest.approx(energy, rel=tolerance)
    assert relative(f, forces) < tolerance


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "accelerated"])
def test_splines_of_internal_coordinates_are_those_of_openmm(fast: bool) -> None:
    potential: Any = accelerated(splines()) if fast else splines()
    system = liquid(1)
    (energy, forces), (e, f) = ours(potential, system), theirs(to_openmm(potential, system)[0], system)
    assert e == pytest.approx(energy, rel=1e-8)
    assert relative(f, forces) < 1e-8


def test_the_single_precision_platform_agrees_as_far_as_its_digits_go() -> None:
    """Relative to the rms force; OpenMM's own median force error against its Reference platform is 2.6e-6 in single precision."""
    potential, system = everything(), liquid(3)
    (_, forces), (_, f) = ours(potential, system), theirs(to_openmm(potential, system)[0], system, "CPU")
    assert float((f - forces).square().mean().sqrt() / forces.square().mean().sqrt()) < 1e-5


def test_masses_cell_and_positions_survive_the_way_there_and_back() -> None:
    system = liquid(0)
    made, topology = to_openmm(everything(), system, names=["a", "b", "c", "d", "e"] * 8)
    masses = [made.getParticleMass(i).value_in_unit(mu.dalton) * units.amu for i in range(len(system))]
    assert masses == pytest.approx(system.masses.tolist(), rel=1e-12)
    box = made.getDefaultPeriodicBoxVectors()
    rows = np.array([[x.value_in_unit(mu.nanometer) * units.nm for x in row] for row in box])
    assert rows == pytest.approx(system.cell[0].numpy(), rel=1e-12)
    assert positions_nm(system) * units.nm == pytest.approx(system.positions.numpy(), rel=1e-12)
    assert topology.getNumAtoms() == 40 and topology.getNumResidues() == 8 and topology.getNumBonds() == 32
    assert [a.name for a in topology.atoms()][:6] == ["a", "b", "c", "d", "e", "a"]


def test_a_skewed_cell_is_reduced_to_the_same_lattice() -> None:
    system = liquid(1)
    skewed = System.single(system.positions, system.types, system.masses, cell=_skewed(system.cell[0]))
    potential = lennard_jones()
    assert theirs(to_openmm(potential, skewed)[0], skewed)[0] == pytest.approx(ours(potential, system)[0], rel=1e-10)


def _skewed(cell: torch.Tensor) -> torch.Tensor:
    cell = cell.clone()
    cell[1] += cell[0]
    cell[2] -= 2 * cell[1]
    return cell


def test_every_bonded_set_is_a_molecule() -> None:
    assert molecules(6, [(4, 5), (0, 2), (2, 4)]) == [0, 1, 0, 2, 0, 0]


def test_verlet_in_openmm_moves_the_beads_as_mlmd_does() -> None:
    """Ten steps: the units of time and mass are right."""
    from mlmd.md.integrators import VelocityVerlet
    from mlmd.md.simulate import simulate
    from mlmd.md.state import rest

    potential, system = everything(), liquid(2)
    (*_, last) = simulate(rest(system), potential, VelocityVerlet(dt=1.0 * units.fs), 10)
    integrator = mm.CustomIntegrator(0.001)
    for line in ("v=v+0.5*dt*f/m", "x=x+dt*v", "v=v+0.5*dt*f/m"):
        integrator.addComputePerDof(line[0], line[2:])
    there = context(to_openmm(potential, system)[0], positions_nm(system), integrator=integrator)
    integrator.step(10)
    x = torch.tensor(there.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(mu.angstrom))
    moved = last.system.positions - system.positions
    assert float(moved.abs().max()) > 0.01
    assert float((x - last.system.positions).abs().max()) < 1e-7


def test_a_network_runs_through_the_python_force() -> None:
    torch.manual_seed(2)
    network = SchNet(6.0, features=8, interactions=1, n_types=3).double()
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    potential = Sum(network, everything())
    for periodic in (True, False):
        system = liquid(1, periodic)
        made, _ = to_openmm_python(potential, system)
        (energy, forces), (e, f) = ours(potential, system), theirs(made, system)
        assert e == pytest.approx(energy, rel=1e-10)
        assert relative(f, forces) < 1e-10


def test_the_python_force_joins_molecules_that_a_platform_has_wrapped() -> None:
    potential, system = everything(), liquid(1)
    made, _ = to_openmm_python(potential, system, bonds=[(5 * m + i, 5 * m + j) for m in range(8) for i, j in BONDS])
    _, forces = ours(potential, system)
    wrapped = replace(system, positions=wrap(system.positions - 3.0, system.cell[0]))
    assert float((wrapped.positions - system.positions).abs().max()) > 10
    assert relative(theirs(made, wrapped)[1], forces) < 1e-10


def test_the_python_force_keeps_its_list_right_while_beads_move() -> None:
    potential, system = everything(), liquid(2)
    integrators = [mm.VerletIntegrator(0.004) for _ in range(2)]
    made = [to_openmm(potential, system)[0], to_openmm_python(potential, system, skin=0.5)[0]]
    contexts = [context(m, positions_nm(system), integrator=i) for m, i in zip(made, integrators)]
    for i in integrators:
        i.step(60)
    a, b = (c.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(mu.angstrom) for c in contexts)
    assert abs(a - system.positions.numpy()).max() > 0.5  # further than the skin
    assert abs(a - b).max() < 1e-6


def test_langevin_dynamics_of_a_bond_has_the_temperature_asked_for() -> None:
    """<(r - r0)^2> of stiff bonds is kT/k to the first order in kT/(k r0^2), at 300 K."""
    potential, system = bonded(bonds()), liquid(0, periodic=False, molecules=60)
    integrator = mm.LangevinMiddleIntegrator(300 * mu.kelvin, 5 / mu.picosecond, 0.004 * mu.picoseconds)
    integrator.setRandomNumberSeed(1)
    there = context(to_openmm(potential, system)[0], positions_nm(system), integrator=integrator)
    integrator.step(2000)
    squares = []
    for _ in range(60):
        integrator.step(50)
        x = torch.tensor(there.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(mu.angstrom)).reshape(
            -1, SIZE, 3
        )
        r = (x[:, 1:] - x[:, :-1]).norm(dim=-1)
        squares.append(0.5 * torch.tensor([5.0, 6.0, 7.0, 8.0]) * (r - torch.tensor([3.8, 3.7, 3.9, 3.8])).square())
    mean = float(torch.stack(squares).mean()) / (0.5 * 300 * units.kelvin)
    assert mean == pytest.approx(1.0, abs=4 * math.sqrt(2 / (60 * 60 * 4) * 2))


@pytest.mark.parametrize(
    ("potential", "match"),
    [
        (lambda: SchNet(4.0, features=4, n_types=3), "SchNet has no formula in other programs.*to_openmm_python"),
        (lambda: bonded(InvariantNet(7, 3, torch.tensor([[0, 1], [1, 2]]))), "InvariantNet has no formula"),
        (lambda: LennardJones(0.1, 3.0, 15.0), "cutoff=15 A is more than half of the cell"),
        (lambda: LennardJones(torch.eye(2), torch.ones(2, 2), 5.0), "parameters for types 0 to 1, but the system has type 2"),
        (lambda: Excluding(WCA(0.1, 3.0), BONDS, 7), "size=7.*40 particles"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_with_the_mend(potential: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        to_openmm(potential(), liquid(0))


def test_bad_systems_are_refused() -> None:
    system = liquid(0)
    with pytest.raises(ValueError, match="holds 2 systems"):
        to_openmm(lennard_jones(), system.replicate(2))
    turned = System.single(system.positions, system.types, cell=system.cell[0].flip(0))
    with pytest.raises(ValueError, match="first lattice vector along x"):
        to_openmm(lennard_jones(), turned)
    slab = System.single(system.positions, system.types, cell=system.cell[0], pbc=[True, True, False])
    with pytest.raises(ValueError, match="periodic in all directions or in none"):
        to_openmm(lennard_jones(), slab)
    with pytest.raises(ValueError, match="names holds 1 names for 40 particles"):
        to_openmm(lennard_jones(), system, names=["a"])
