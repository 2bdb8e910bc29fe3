"""Constant pressure where bonds are rigid, against exact results and another engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mlmd import units
from mlmd.forces import Evaluation, energy_forces
from mlmd.md import (
    CSVR,
    CellRescaling,
    Constrained,
    Langevin,
    NoseHooverChain,
    RigidBonds,
    State,
    constrain,
    rest,
    simulate,
    thermal_velocities,
)
from mlmd.md.barostats import internal_pressure
from mlmd.md.bodies import centres, joined, molecular_stress
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.segment import segment_sum
from mlmd.system import System

KT = 0.7


def liquid(systems: int = 2) -> tuple[LennardJones, System, RigidBonds]:
    """Boxes of two rigid dumbbells of unequal masses, a rigid bent trimer and a free particle."""
    g = torch.Generator().manual_seed(1)
    sites = torch.cartesian_prod(torch.arange(2.0), torch.arange(2.0), torch.arange(1.0)).double() * 3.2
    shapes = [
        torch.tensor([[0.0, 0, 0], [1.1, 0, 0]]),
        torch.tensor([[0.0, 0, 0], [0.8, 0.8, 0]]),
        torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0.3, 0.9, 0.1]]),
        torch.zeros(1, 3),
    ]
    x = torch.cat([s.double() + site for s, site in zip(shapes, sites)])
    cell = torch.tensor([[6.4, 0.0, 0.0], [0.5, 6.2, 0.0], [-0.3, 0.2, 4.6]], dtype=torch.float64)
    masses = torch.linspace(1.0, 2.4, 8, dtype=torch.float64)
    bonds = [(0, 1), (2, 3), (4, 5), (5, 6), (4, 6)]
    one = System.single(x, masses=masses, cell=cell)
    many = System.stack([one.at(x + 0.02 * torch.randn(1, 3, generator=g, dtype=x.dtype)) for _ in range(systems)])
    return LennardJones(0.1, 1.4, cutoff=2.2).double(), many, RigidBonds.of(many, bonds)


def evaluated(potential: LennardJones, system: System) -> Evaluation:
    with torch.no_grad():
        return energy_forces(potential, system, neighbors(system, potential.cutoff), stress=True)


def test_bodies_are_what_constraints_join() -> None:
    _, system, bonds = liquid()
    bodies = joined(system, bonds.pairs)
    assert bodies.member.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7]
    assert bodies.batch.tolist() == [0] * 4 + [1] * 4
    x, m = system.positions, system.masses
    torch.testing.assert_close(centres(system, bodies)[5], (m[4:7, None] * x[4:7]).sum(0) / m[4:7].sum())
    assert torch.equal(joined(system, bonds.pairs[:0]).member, torch.arange(16))


def test_the_molecular_stress_is_the_finite_difference_of_moved_molecules() -> None:
    potential, system, bonds = liquid()
    bodies = joined(system, bonds.pairs)
    found = molecular_stress(system, evaluated(potential, system), bodies)
    volume, h, eye = torch.linalg.det(system.cell).abs(), 1e-5, torch.eye(3).double()

    def energy(strain: Tensor) -> Tensor:
        there = centres(system, bodies)
        moved = replace(system, positions=system.positions + there @ strain, cell=system.cell @ (eye + strain))
        return evaluated(potential, moved).energy

    for a in range(3):
        for b in range(3):
            strain = 0.5 * h * (torch.outer(eye[a], eye[b]) + torch.outer(eye[b], eye[a]))
            expected = (energy(strain) - energy(-strain)) / (2 * h * volume)
            torch.testing.assert_close(found[:, a, b], expected, rtol=1e-6, atol=1e-10)
    with pytest.raises(ValueError, match="stress=True"):
        molecular_stress(system, Evaluation(found[:, 0, 0], system.positions), bodies)


def constraint_forces(state: State, bonds: RigidBonds) -> Tensor:
    """Forces (N, 3) that keep every distance to second order in time, by one dense linear system."""
    x, v, m = (y.numpy() for y in (state.system.positions, state.velocities, state.system.masses))
    n, pairs = len(x), bonds.pairs.numpy()
    gradient = np.zeros((len(pairs), n, 3))
    for row, (i, j) in zip(gradient, pairs):
        row[i], row[j] = x[i] - x[j], x[j] - x[i]
    along = np.einsum("cia,ia->c", gradient, state.forces.numpy() / m[:, None])
    turning = np.square(v[pairs[:, 0]] - v[pairs[:, 1]]).sum(1)
    coupling = np.einsum("cia,dia->cd", gradient / m[:, None], gradient)
    return torch.from_numpy(np.einsum("c,cia->ia", np.linalg.solve(coupling, -along - turning), gradient))


def test_the_pressure_of_rigid_bodies_is_that_of_atoms_with_the_forces_of_constraints() -> None:
    r"""At every instant: :math:`\sum_I m_I V_I^2-\mathrm{tr}V\sigma_{mol}=\sum_i m_iv_i^2+\sum_i x_i\cdot(F_i+G_i)` of pairs."""
    potential, system, bonds = liquid()
    bodies = joined(system, bonds.pairs)
    state = constrain(rest(system, thermal_velocities(system, KT, torch.Generator().manual_seed(2))), bonds)
    result = evaluated(potential, state.system)
    state = replace(state, forces=result.forces)
    volume, batch = torch.linalg.det(system.cell).abs(), system.batch
    assert result.stress is not None

    def trace(stress: Tensor) -> Tensor:
        return volume * stress.diagonal(dim1=1, dim2=2).sum(-1)

    held = segment_sum((system.positions * constraint_forces(state, bonds)).sum(-1), batch, 2)
    atoms = 2 * state.kinetic_energy - trace(result.stress) + held
    mass = segment_sum(system.masses, bodies.member, len(bodies.batch))
    momentum = segment_sum(system.masses[:, None] * state.velocities, bodies.member, len(bodies.batch))
    moving = segment_sum(momentum.square().sum(-1) / mass, bodies.batch, 2)
    molecules = moving - trace(molecular_stress(system, result, bodies))
    assert float(held.abs().min()) > 0.1
    torch.testing.assert_close(molecules, atoms, rtol=1e-10, atol=1e-10)


def test_the_internal_pressure_counts_bodies() -> None:
    _, system, bonds = liquid()
    p = internal_pressure(system, KT, torch.zeros(2, 3, 3).double(), joined(system, bonds.pairs))
    expected = 4 * KT / torch.linalg.det(system.cell).abs()
    torch.testing.assert_close(p, expected[:, None, None] * torch.eye(3).double())


class Nothing(torch.nn.Module):
    cutoff = 0.0

    def forward(self, system: System, pairs: None) -> Tensor:
        return 0.0 * segment_sum(system.positions[:, 0], system.batch, system.n_systems) + 0.0 * system.cell.sum()


@pytest.mark.parametrize(("inner", "shape"), [(Langevin(0.1, KT, 0.1), "isotropic"), (CSVR(0.1, KT, 5.0), "triclinic")])
def test_an_ideal_gas_of_rigid_molecules_has_the_volume_of_its_molecules(inner: Langevin | CSVR, shape: str) -> None:
    """V^M exp(-pV/kT) for M = 6 bodies of 12 particles: mean (M + 1) kT/p, variance (M + 1) (kT/p)^2."""
    g, p, replicas = torch.Generator().manual_seed(3), 0.015, 300
    x = 6.0 * torch.rand(6, 1, 3, generator=g).double() + torch.tensor([[0.0, 0, 0], [0.9, 0, 0]]).double()
    masses = torch.tensor([1.0, 3.0] * 6).double()
    system = System.single(x.reshape(-1, 3), masses=masses, cell=(7 * KT / p) ** (1 / 3)).replicate(replicas)
    bonds = RigidBonds.of(system, [(k, k + 1) for k in range(0, 12, 2)])
    barostat = CellRescaling(Constrained(inner, bonds), p, 60.0, 4.0, every=2, shape=shape)
    start = constrain(rest(system, thermal_velocities(system, KT, g)), bonds)
    states = list(simulate(start, Nothing(), barostat, 400, every=20, generator=g))[5:]
    scaled = torch.stack([torch.linalg.det(s.system.cell) for s in states]) * p / KT
    for samples, expected in ((scaled, 7.0), ((scaled - 7) ** 2, 7.0)):
        mean = samples.mean(0)
        assert float(mean.mean()) == pytest.approx(expected, abs=3.5 * float(mean.std()) / replicas**0.5)
    assert float(bonds.error(states[-1].system).max()) < 1e-9
    v, (i, j) = states[-1].velocities, bonds.pairs.T
    along = ((v[i] - v[j]) * (states[-1].system.positions[i] - states[-1].system.positions[j])).sum(-1)
    assert float(along.abs().max()) < 1e-10


THERMOSTATS = {
    "Langevin": lambda kT: Langevin(0.02, kT, 0.5),
    "CSVR": lambda kT: CSVR(0.02, kT, 1.0),
    "NoseHooverChain": lambda kT: NoseHooverChain(0.02, kT, 1.0),
}


@pytest.mark.parametrize("name", sorted(THERMOSTATS))
def test_a_run_at_constant_pressure_continued_is_the_run_that_never_stopped(name: str) -> None:
    potential, system, bonds = liquid()
    start = constrain(rest(system, thermal_velocities(system, 0.05, torch.Generator().manual_seed(4))), bonds)
    ends = []
    for parts in ([20], [7, 13]):
        state, g = start, torch.Generator().manual_seed(5)
        for steps in parts:
            barostat = CellRescaling(Constrained(THERMOSTATS[name](0.05), bonds), 0.003, 20.0, 2.0, every=3, shape="triclinic")
            (state,) = simulate(state, potential, barostat, steps, every=steps, generator=g)
        ends.append(state)
    assert not torch.equal(ends[0].system.cell, start.system.cell)
    assert torch.equal(ends[0].system.cell, ends[1].system.cell)
    assert float((ends[0].system.positions - ends[1].system.positions).abs().max()) < 1e-13  # lists begin elsewhere


def test_rigid_water_keeps_its_shape_when_the_cell_changes() -> None:
    from tests.md.test_constraints import waters

    open_system, settle = waters(4)
    system = System.single(open_system.positions, masses=open_system.masses, cell=12.0)
    barostat = CellRescaling(Constrained(Langevin(0.5, KT, 0.1), settle), 0.01, 40.0, 20.0, every=1)
    start = constrain(rest(system, thermal_velocities(system, 0.02, torch.Generator().manual_seed(1))), settle)
    (end,) = simulate(start, Nothing(), barostat, 60, every=60, generator=torch.Generator().manual_seed(2))
    assert abs(float(end.system.cell[0, 0, 0]) - 12.0) > 0.1
    assert float(settle.bonds.error(end.system).max()) < 1e-9


def test_a_barostat_inside_constraints_is_refused() -> None:
    _, _, bonds = liquid()
    with pytest.raises(ValueError, match="put CellRescaling around Constrained"):
        Constrained(CellRescaling(Langevin(1.0, 1.0, 1.0), 0.0, 1.0, 99.0), bonds)  # type: ignore[arg-type]


EDGE, LENGTH, HEAVY, LIGHT = 15.5, 3.0, 30.0, 10.0
PRESSURE, WARM = 300 * units.bar, 150 * units.kelvin
EPSILON, SIGMA, CUTOFF, ONSET = 0.0085, 3.4, 6.8, 5.8


def dumbbells(replicas: int) -> tuple[System, RigidBonds]:
    """Boxes of 32 rigid dumbbells, which do not see each other's replicas."""
    centre = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(4)).double() * EDGE / 4
    centre[:, 0] *= 2
    ends = torch.tensor([[0.0, 0.0, 0.0], [LENGTH, 0.0, 0.0]]).double()
    masses = torch.tensor([HEAVY, LIGHT] * 32) * units.amu
    system = System.single((centre[:, None] + ends).reshape(-1, 3), masses=masses, cell=EDGE).replicate(replicas)
    return system, RigidBonds.of(system, [(k, k + 1) for k in range(0, 64, 2)])


@pytest.mark.slow
def test_a_liquid_of_rigid_dumbbells_has_the_density_of_openmm(record_property) -> None:
    """OpenMM moves whole molecules too, but by a Monte Carlo rule that knows no pressure; the same switched Lennard-Jones law."""
    openmm = pytest.importorskip("openmm")
    replicas, g = 16, torch.Generator().manual_seed(6)
    system, bonds = dumbbells(replicas)
    law = accelerated(Excluding(LennardJones(EPSILON, SIGMA, CUTOFF, onset=ONSET).double(), [(0, 1)], size=2, hops=1))
    start = constrain(rest(system, thermal_velocities(system, WARM, g)), bonds)
    thermostat = Constrained(Langevin(2 * units.fs, WARM, 5 / units.ps), bonds)
    (start,) = simulate(start, law, thermostat, 1500, every=1500, generator=g)
    barostat = CellRescaling(thermostat, PRESSURE, 5e-4 / units.bar, 0.5 * units.ps, every=10)
    states = list(simulate(start, law, barostat, 15_000, every=50, generator=g))[60:]
    ours = torch.stack([torch.linalg.det(s.system.cell) for s in states]).mean(0)
    mean, error = float(ours.mean()), float(ours.std()) / replicas**0.5
    with torch.no_grad():
        agreed = float(law(system.select([0]), neighbors(system.select([0]), CUTOFF)))
    context = openmm_dumbbells(openmm)
    theirs_energy = context.getState(getEnergy=True).getPotentialEnergy()._value * units.kJ_mol
    assert agreed == pytest.approx(theirs_energy, rel=1e-6)
    context.getIntegrator().step(20_000)
    volumes = []
    for _ in range(2000):
        context.getIntegrator().step(100)
        volumes.append(context.getState().getPeriodicBoxVolume()._value * 1000)
    blocks = np.array(volumes).reshape(20, -1).mean(1)
    theirs, their_error = float(blocks.mean()), float(blocks.std(ddof=1)) / 20**0.5
    record_property("volume here and in OpenMM, A^3", [mean, error, theirs, their_error])
    assert max(error, their_error) < 0.01 * mean
    assert mean == pytest.approx(theirs, abs=3 * (error**2 + their_error**2) ** 0.5)


def openmm_dumbbells(openmm):
    """The same liquid as one context, at a constant pressure."""
    mm, law = openmm.System(), openmm.NonbondedForce()
    law.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    law.setCutoffDistance(CUTOFF / 10)
    law.setUseSwitchingFunction(True)
    law.setSwitchingDistance(ONSET / 10)
    law.setUseDispersionCorrection(False)
    mm.setDefaultPeriodicBoxVectors(*(np.eye(3) * EDGE / 10))
    for k in range(64):
        mm.addParticle((HEAVY, LIGHT)[k % 2])
        law.addParticle(0.0, SIGMA / 10, EPSILON / units.kJ_mol)
    for k in range(0, 64, 2):
        mm.addConstraint(k, k + 1, LENGTH / 10)
        law.addException(k, k + 1, 0.0, 1.0, 0.0)
    mm.addForce(law)
    mm.addForce(openmm.MonteCarloBarostat(PRESSURE / units.bar, WARM / units.kelvin, 10))
    integrator = openmm.LangevinMiddleIntegrator(WARM / units.kelvin, 5.0, 0.002)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(mm, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(dumbbells(1)[0].positions.numpy() / 10)
    context.setVelocitiesToTemperature(WARM / units.kelvin, 1)
    return context
