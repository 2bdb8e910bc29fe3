"""Rigid bonds against exact results and another engine."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from mlmd import units
from mlmd.errors import Unstable
from mlmd.md import CSVR, Langevin, NoseHooverChain, VelocityVerlet, half_step_kT, rest, simulate, thermal_velocities
from mlmd.md.constraints import Constrained, RigidBonds, constrain, constrained_kT
from mlmd.md.settle import Settle
from mlmd.segment import segment_sum
from mlmd.system import System

BOND, ANGLE = 0.9572, np.deg2rad(104.52)  # TIP3P water
BASE = 2 * BOND * np.sin(ANGLE / 2)
WATER_MASSES = [15.99943, 1.007947, 1.007947]


class Field(torch.nn.Module):
    """U = -f sum z_i: a uniform force along z."""

    cutoff = 0.0

    def __init__(self, strength=0.0):
        super().__init__()
        self.strength = strength

    def forward(self, system, pairs):
        return segment_sum(-self.strength * system.positions[:, 2], system.batch, system.n_systems)


class Water(torch.nn.Module):
    """Lennard-Jones between oxygens and charges on all, between molecules, in the open."""

    cutoff = 0.0
    epsilon, sigma = 0.1521 * units.kcal_mol, 3.15061
    charges = (-0.834, 0.417, 0.417)

    def forward(self, system, pairs):
        x = system.dense()
        n = x.shape[1]
        q = torch.tensor(self.charges, dtype=x.dtype).repeat(n // 3)
        molecule = torch.arange(n) // 3
        i, j = torch.triu_indices(n, n, 1)
        i, j = i[molecule[i] != molecule[j]], j[molecule[i] != molecule[j]]
        r = (x[:, i] - x[:, j]).norm(dim=-1)
        oxygen = (i % 3 == 0) & (j % 3 == 0)
        s6 = (self.sigma / r) ** 6
        lj = torch.where(oxygen, 4 * self.epsilon * (s6**2 - s6), 0.0)
        return (units.coulomb_constant * q[i] * q[j] / r + lj).sum(1)


def chain(systems=1, n=5, unequal=True):
    """Beads in a bent row, 1.5 A apart."""
    k = torch.arange(n, dtype=torch.float64)
    x = torch.stack([k, 0.4 * torch.cos(2.0 * k), 0.3 * torch.sin(1.3 * k)], 1)
    step = (x[1:] - x[:-1]) / (x[1:] - x[:-1]).norm(dim=1, keepdim=True) * 1.5
    x = torch.cat([x[:1], x[:1] + step.cumsum(0)])
    masses = 1.0 + 0.7 * (k % 3) if unequal else torch.ones_like(k)
    system = System.single(x, masses=masses).replicate(systems)
    return system, RigidBonds.of(system, [(i, i + 1) for i in range(n - 1)])


def dumbbell(systems=1, d=1.2, masses=(1.0, 1.0)):
    system = System.single(torch.tensor([[0.0, 0.0, 0.0], [d, 0.0, 0.0]]).double(), masses=list(masses)).replicate(systems)
    return system, RigidBonds.of(system, [(0, 1)])


def waters(molecules=4, seed=1):
    """Rigid molecules on a coarse grid, turned at random."""
    g = torch.Generator().manual_seed(seed)
    h = BOND * np.cos(ANGLE / 2)
    shape = torch.tensor([[0, 0, 0], [BASE / 2, h, 0], [-BASE / 2, h, 0]]).double()
    turn, _ = torch.linalg.qr(torch.randn(molecules, 3, 3, generator=g, dtype=torch.float64))
    grid = torch.cartesian_prod(*[torch.arange(4).double()] * 3)[:molecules] * 3.1
    masses = torch.tensor(WATER_MASSES * molecules).double() * units.amu
    system = System.single((shape @ turn + grid[:, None]).reshape(-1, 3), masses=masses)
    return system, Settle(torch.arange(3 * molecules).reshape(-1, 3), BOND, BASE)


@pytest.mark.parametrize("integrator", [VelocityVerlet(0.05), Langevin(0.05, 0.5, 0.4)])
def test_bonds_keep_their_length_for_a_thousand_steps(integrator):
    system, bonds = chain(3)
    g = torch.Generator().manual_seed(1)
    start = constrain(rest(system, thermal_velocities(system, 0.5, g)), bonds)
    (end,) = simulate(start, Field(0.2), Constrained(integrator, bonds), 1000, every=1000, generator=g)
    assert float((bonds.error(end.system) * bonds.distances).max()) < 1e-8
    v, x, (i, j) = end.velocities, end.system.positions, bonds.pairs.T
    assert float(((v[i] - v[j]) * (x[i] - x[j])).sum(-1).abs().max()) < 1e-12
    assert float((end.system.positions - start.system.positions).norm(dim=1).min()) > 1.0


def test_single_precision_does_not_drift_off_the_constraints():
    system, bonds = chain(3)
    system = system.to(torch.float32)
    system = system.at(system.positions + 40.0)  # far from the origin, where stored positions are coarse
    g = torch.Generator().manual_seed(1)
    start = constrain(rest(system, thermal_velocities(system, 0.5, g)), bonds)
    (end,) = simulate(start, Field(), Constrained(Langevin(0.05, 0.5, 0.4), bonds), 200, every=200, generator=g)
    assert end.system.positions.dtype == torch.float32
    assert float(bonds.error(end.system).max()) < 2 * 40 * 2**-23  # rounding of the two ends


def test_settle_agrees_with_shake():
    system, settle = waters(60)
    g = torch.Generator().manual_seed(2)
    x = system.positions
    drifted = x + 0.05 * torch.randn(x.shape, generator=g, dtype=x.dtype)
    closed = settle.solver(system).displacement(x, drifted)
    iterated = settle.bonds.solver(system).displacement(x, drifted)
    assert float((closed - iterated).abs().max()) < 1e-10
    assert float(settle.bonds.error(system.at(drifted + closed)).max()) < 1e-12


def test_a_free_dumbbell_turns_by_the_angle_whose_sine_is_omega_dt():
    d, omega, dt, steps = 1.2, 0.3, 0.4, 100
    system, bonds = dumbbell(masses=(1.0, 3.0))
    start = rest(system, torch.tensor([[0.0, -0.75 * d * omega, 0.0], [0.0, 0.25 * d * omega, 0.0]]).double())
    (end,) = simulate(start, Field(), Constrained(VelocityVerlet(dt), bonds), steps, every=steps)
    x = end.system.positions
    angle = steps * np.arcsin(omega * dt)  # the drift x + dt v + lambda x has a component omega dt d across the old bond
    expected = torch.tensor([np.cos(angle), np.sin(angle), 0.0]) * d
    assert torch.allclose(x[1] - x[0], expected, atol=1e-9)


def test_the_energy_error_is_of_second_order():
    def spread(dt):
        system, bonds = chain(n=4)
        v = torch.tensor([[0.0, 0.3, 0.1], [0.0, -0.2, 0.3], [0.2, 0.0, -0.4], [0.0, 0.1, 0.0]]).double()
        start = constrain(rest(system, v), bonds)
        states = list(simulate(start, Anchor(), Constrained(VelocityVerlet(dt), bonds), round(10 / dt), every=1))
        return float(torch.stack([s.energy + s.kinetic_energy for s in states]).std())

    assert spread(0.05) / spread(0.025) == pytest.approx(4.0, rel=0.05)


class Anchor(Field):
    """Springs to the origin that grow stiffer along the chain, so that bonds are under tension."""

    def forward(self, system, pairs):
        k = 1.0 + torch.arange(len(system), dtype=system.positions.dtype) % 4
        return segment_sum(0.5 * k * system.positions.square().sum(-1), system.batch, system.n_systems)


def test_langevin_dynamics_of_rigid_dumbbells_orients_them_as_boltzmann_says():
    kT, f, d = 0.5, 0.8, 1.2
    system, bonds = dumbbell(1000, d)
    g = torch.Generator().manual_seed(4)
    start = constrain(rest(system, thermal_velocities(system, kT, g)), bonds)
    integrator = Constrained(Langevin(0.3, kT, 0.5), bonds)
    states = list(simulate(start, Torque(f), integrator, 400, every=20, generator=g))[8:]
    x = torch.stack([s.system.dense() for s in states])
    cosine = (x[:, :, 1, 2] - x[:, :, 0, 2]) / d
    c = f * d / kT
    expected = 1 / np.tanh(c) - 1 / c  # Langevin (1905)
    error = cosine.mean(0).std() / np.sqrt(1000)  # the dumbbells are independent
    assert cosine.mean().item() == pytest.approx(expected, abs=float(4 * error))
    measured = torch.stack([constrained_kT(s, bonds).mean() for s in states]).mean().item()
    assert measured == pytest.approx(kT, rel=0.02)  # 5 degrees of freedom, 3 of the centre and 2 of the axis


class Torque(Field):
    """Opposite forces along z on the ends of a dumbbell."""

    def forward(self, system, pairs):
        x = system.dense()
        return -self.strength * (x[:, 1, 2] - x[:, 0, 2])


def test_the_angle_of_a_rigid_trimer_has_the_distribution_of_the_mass_metric():
    """p(cos) is proportional to sqrt(4 - cos^2), not uniform (Fixman 1974)."""
    system, bonds = chain(1000, n=3, unequal=False)
    kT, g = 0.5, torch.Generator().manual_seed(5)
    start = constrain(rest(system, thermal_velocities(system, kT, g)), bonds)
    states = list(simulate(start, Field(), Constrained(Langevin(0.25, kT, 0.3), bonds), 300, every=20, generator=g))[5:]
    x = torch.stack([s.system.dense() for s in states])
    a, b = x[:, :, 0] - x[:, :, 1], x[:, :, 2] - x[:, :, 1]
    square = ((a * b).sum(-1) / 1.5**2).square()
    c = np.linspace(-1, 1, 20001)
    expected = np.trapezoid(c**2 * np.sqrt(4 - c**2), c) / np.trapezoid(np.sqrt(4 - c**2), c)
    error = float(square.mean(0).std() / np.sqrt(1000))
    assert abs(expected - 1 / 3) > 4 * error  # the test can tell
    assert square.mean().item() == pytest.approx(expected, abs=4 * error)


def test_kinetic_energy_is_shared_among_the_remaining_degrees_of_freedom():
    system, bonds = chain(300)
    kT, g = 0.5, torch.Generator().manual_seed(6)
    start = constrain(rest(system, thermal_velocities(system, kT, g)), bonds)
    assert bonds.removed(system).tolist() == [4] * 300
    assert float(start.kinetic_energy.mean()) == pytest.approx((15 - 4) / 2 * kT, rel=4 / np.sqrt(300 * 5.5))
    states = list(simulate(start, Field(), Constrained(Langevin(0.1, kT, 0.5), bonds), 200, every=10, generator=g))[3:]
    kinetic = torch.stack([s.kinetic_energy for s in states])
    assert kinetic.mean().item() == pytest.approx(11 / 2 * kT, abs=float(4 * kinetic.mean(0).std() / np.sqrt(300)))
    torch.testing.assert_close(half_step_kT(states[-1]), constrained_kT(states[-1], bonds))  # what a log shows


def bound_chain(systems, integrator, seed=6):
    """Chains of four rigid bonds on springs, whose motion is chaotic, warmed up."""
    system, bonds = chain(systems)
    g = torch.Generator().manual_seed(seed)
    start = constrain(rest(system, thermal_velocities(system, 0.5, g)), bonds)
    (warm,) = simulate(start, Anchor(), Constrained(Langevin(0.1, 0.5, 0.3), bonds), 150, every=150, generator=g)
    return rest(warm.system, warm.velocities), bonds, Constrained(integrator, bonds), g


@pytest.mark.parametrize("integrator", [CSVR(0.1, 0.5, 2.0), NoseHooverChain(0.1, 0.5, 2.0)], ids=lambda i: type(i).__name__)
def test_thermostats_of_the_kinetic_energy_count_the_remaining_degrees_of_freedom(integrator):
    """K/kT is Gamma(11/2); the potential energy is that of Langevin dynamics, which knows of no such count."""
    start, bonds, constrained, g = bound_chain(256, integrator)
    states = list(simulate(start, Anchor(), constrained, 600, every=20, generator=g))[5:]
    energy = torch.stack([s.energy for s in states]).mean(0)
    kinetic = torch.stack([s.kinetic_energy for s in states])
    assert kinetic.mean().item() == pytest.approx(5.5 * 0.5, abs=float(4 * kinetic.mean(0).std() / 16))
    assert stats.kstest(states[-1].kinetic_energy.numpy() / 0.5, stats.gamma(5.5).cdf).pvalue > 0.01
    langevin = simulate(start, Anchor(), Constrained(Langevin(0.1, 0.5, 0.3), bonds), 600, every=20, generator=g)
    other = torch.stack([s.energy for s in list(langevin)[5:]]).mean(0)
    assert float(energy.mean() - other.mean()) == pytest.approx(0.0, abs=float(4 * (energy.var() + other.var()).sqrt() / 16))
    assert float(bonds.error(states[-1].system).max()) < 1e-9


@pytest.mark.parametrize("make", [lambda dt: CSVR(dt, 0.5, 2.0), lambda dt: NoseHooverChain(dt, 0.5, 2.0)], ids=["CSVR", "chain"])
def test_the_conserved_quantity_of_a_thermostat_holds_to_second_order(make):
    def spread(dt):
        start, _, constrained, g = bound_chain(20, make(dt))
        first = constrained.init(replace(start, energy=Anchor()(start.system, None)))
        states = list(simulate(start, Anchor(), constrained, round(4 / dt), every=1, generator=g))
        drift = torch.stack([constrained.conserved(s) for s in states]) - constrained.conserved(first)
        return float(drift.square().mean().sqrt())

    assert spread(0.04) / spread(0.02) == pytest.approx(4.0, rel=0.25)


def test_a_chain_of_thermostats_retraces_its_path_on_rigid_bonds():
    start, _, constrained, _ = bound_chain(2, NoseHooverChain(0.05, 0.5, 2.0))
    (there,) = simulate(start, Anchor(), constrained, 100, every=100)
    bath = there.memory.inner
    turned = replace(
        there, velocities=-there.velocities, memory=there.memory._replace(inner=bath._replace(velocity=-bath.velocity))
    )
    (back,) = simulate(turned, Anchor(), constrained, 100, every=100)
    assert torch.allclose(back.system.positions, start.system.positions, atol=1e-6)


def test_velocities_along_the_bonds_are_absorbed_by_the_drift():
    system, bonds = chain()
    g = torch.Generator().manual_seed(7)
    v = thermal_velocities(system, 0.5, g)
    raw = rest(system, v)
    clean = constrain(raw, bonds)
    assert not torch.allclose(raw.velocities, clean.velocities, atol=0.05)
    ends = [next(simulate(s, Field(0.1), Constrained(VelocityVerlet(0.05), bonds), 1, every=1)) for s in (raw, clean)]
    assert torch.allclose(ends[0].system.positions, ends[1].system.positions, atol=1e-9)
    assert torch.allclose(ends[0].velocities, ends[1].velocities, atol=1e-8)


def test_the_energy_error_of_rigid_water_is_of_second_order():
    def spread(dt):
        system, settle = waters(4)
        v = thermal_velocities(system, 150 * units.kelvin, torch.Generator().manual_seed(8))
        states = simulate(
            constrain(rest(system, v), settle),
            Water(),
            Constrained(VelocityVerlet(dt), settle),
            round(200 / dt),
            every=round(4 / dt),
        )
        return float(torch.stack([s.energy + s.kinetic_energy for s in states]).std())

    assert spread(1.0) / spread(0.5) == pytest.approx(4.0, rel=0.05)


def test_water_follows_the_path_of_openmm():
    openmm = pytest.importorskip("openmm")
    system, settle = waters(3, seed=3)
    v = thermal_velocities(system, 300 * units.kelvin, torch.Generator().manual_seed(9))
    start = constrain(rest(system, v), settle)
    (end,) = simulate(start, Water(), Constrained(VelocityVerlet(1.0), settle), 200, every=200)
    shaken = Constrained(VelocityVerlet(1.0), settle.bonds)
    (other,) = simulate(start, Water(), shaken, 200, every=200)
    theirs = _openmm_positions(openmm, system, start.velocities, 200)
    assert float((other.system.positions - end.system.positions).abs().max()) < 1e-7
    assert float((end.system.positions - theirs).abs().max()) < 1e-5
    assert float((theirs - system.positions).abs().max()) > 0.5


def _openmm_positions(openmm, system, velocities, steps):
    """Leapfrog with SETTLE in double precision: its velocities lag by half a step."""
    from mlmd.forces import energy_forces

    mm, n = openmm.System(), len(system)
    coulomb = openmm.NonbondedForce()
    coulomb.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    for k in range(n):
        mm.addParticle(WATER_MASSES[k % 3])
        sigma, epsilon = (Water.sigma / 10, Water.epsilon / units.kJ_mol) if k % 3 == 0 else (0.1, 0.0)
        coulomb.addParticle(Water.charges[k % 3], sigma, epsilon)
    for o in range(0, n, 3):
        for i, j, d in ((o, o + 1, BOND), (o, o + 2, BOND), (o + 1, o + 2, BASE)):
            mm.addConstraint(i, j, d / 10)
            coulomb.addException(i, j, 0.0, 1.0, 0.0)
    mm.addForce(coulomb)
    with torch.no_grad():
        forces = energy_forces(Water(), system).forces
    v = velocities - 0.5 * forces / system.masses[:, None]
    integrator = openmm.VerletIntegrator(0.001)
    integrator.setConstraintTolerance(1e-10)
    context = openmm.Context(mm, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions((system.positions / 10).numpy())
    context.setVelocities((v * 100).numpy())  # A/fs to nm/ps
    integrator.step(steps)
    x = context.getState(getPositions=True).getPositions(asNumpy=True)._value
    return torch.as_tensor(np.array(x)) * 10


def test_water_and_chain_are_constrained_together():
    molecule, settle = waters(1)
    beads, _ = chain(n=3)
    system = System.single(
        torch.cat([molecule.positions, beads.positions + 5.0]), masses=torch.cat([molecule.masses, beads.masses])
    )
    bonds = RigidBonds.of(system, [(3, 4), (4, 5)])
    start = rest(system, thermal_velocities(system, 0.02, torch.Generator().manual_seed(1)))
    both = Constrained(VelocityVerlet(0.2), [settle, bonds])
    (end,) = simulate(start, Field(), both, 50, every=50)
    assert both.removed(system).tolist() == [5]
    assert max(float(bonds.error(end.system).max()), float(settle.bonds.error(end.system).max())) < 1e-9
    with pytest.raises(ValueError, match="particle 0 is in two sets"):
        Constrained(VelocityVerlet(0.2), [settle, settle.bonds]).init(start)


def test_rattle_retraces_its_path_and_keeps_the_momentum():
    system, bonds = chain(2)
    start = constrain(rest(system, thermal_velocities(system, 0.5, torch.Generator().manual_seed(10))), bonds)
    integrator = Constrained(VelocityVerlet(0.05), bonds)
    (there,) = simulate(start, Anchor(), integrator, 200, every=200)
    (back,) = simulate(rest(there.system, -there.velocities), Anchor(), integrator, 200, every=200)
    assert torch.allclose(back.system.positions, start.system.positions, atol=1e-6)
    (free,) = simulate(start, Field(), integrator, 200, every=200)
    momentum = system.masses[:, None] * (free.velocities - start.velocities)
    assert float(momentum.reshape(2, 5, 3).sum(1).abs().max()) < 1e-12


@pytest.mark.parametrize(
    "inner", [Langevin(0.1, 0.5, 0.5), CSVR(0.1, 0.5, 1.0), NoseHooverChain(0.1, 0.5, 1.0)], ids=lambda i: type(i).__name__
)
def test_a_constrained_run_continued_is_the_run_that_never_stopped(inner):
    system, bonds = chain(2)
    start = constrain(rest(system, thermal_velocities(system, 0.5, torch.Generator().manual_seed(11))), bonds)
    ends = []
    for parts in ([60], [13, 47]):
        state, g = start, torch.Generator().manual_seed(12)
        for steps in parts:  # a new integrator each time: constraints are prepared anew
            (state,) = simulate(state, Field(0.1), Constrained(inner, bonds), steps, every=steps, generator=g)
        ends.append(state)
    assert torch.equal(ends[0].system.positions, ends[1].system.positions)
    assert torch.equal(ends[0].velocities, ends[1].velocities)


@pytest.mark.slow
def test_rigid_water_keeps_its_energy_over_twenty_picoseconds():
    """The fit of the slope itself has an error of about 0.003 kT/ns per degree of freedom."""
    kT, (system, settle) = 300 * units.kelvin, waters(8)
    start = constrain(rest(system, thermal_velocities(system, kT, torch.Generator().manual_seed(8))), settle)
    (warm,) = simulate(start, Drop(), Constrained(Langevin(1.0, kT, 0.02), settle), 3000, every=3000)
    integrator = Constrained(VelocityVerlet(2.0), settle)
    states = list(simulate(rest(warm.system, warm.velocities), Drop(), integrator, 10_000, every=20))
    energy = torch.stack([s.energy + s.kinetic_energy for s in states])[:, 0].numpy()
    slope = np.polyfit(40.0 * np.arange(len(energy)), energy, 1)[0]
    assert abs(slope) * units.ns / kT / (72 - 24) < 0.01


class Drop(Water):
    """Water held together by half-harmonic walls about the middle of the grid."""

    def forward(self, system, pairs):
        oxygen = system.dense()[:, ::3] - 4.65
        return super().forward(system, pairs) + (0.025 * (oxygen.norm(dim=-1) - 7.0).clamp(min=0) ** 2).sum(1)


@pytest.mark.parametrize("closed", [False, True], ids=["SHAKE", "SETTLE"])
def test_a_constraint_that_cannot_be_kept_is_named_with_its_system(closed):
    system, settle = waters(1)
    system = system.replicate(3)
    constraints = Settle(torch.arange(9).reshape(3, 3), BOND, BASE) if closed else RigidBonds.of(system, settle.bonds.pairs)
    v = torch.zeros(9, 3).double()
    v[4] = 5.0
    run = simulate(rest(system, v), Field(), Constrained(VelocityVerlet(0.5), constraints), 20, every=1)
    with pytest.warns(RuntimeWarning, match=r"particle 3 \(system 1\)"), pytest.raises(Unstable) as caught:
        list(run)
    assert caught.value.systems == [1]
    assert bool(torch.isfinite(caught.value.last_good.system.positions).all())


def test_replicas_do_not_depend_on_one_that_is_lost():
    class Cliff(Field):
        def forward(self, system, pairs):
            strength = torch.tensor([0.25, 1e3, 0.25]).to(system.positions)[system.batch]
            return segment_sum(strength * system.positions[:, 2] ** 3, system.batch, system.n_systems)

    system, bonds = chain(3)
    start = constrain(rest(system, thermal_velocities(system, 0.5, torch.Generator().manual_seed(1))), bonds)
    integrator = Constrained(VelocityVerlet(0.05), bonds)
    with pytest.warns(UserWarning, match="stopped at step"), pytest.warns(RuntimeWarning, match="system 1"):
        (end,) = simulate(start, Cliff(), integrator, 40, every=40, on_unstable="freeze")
    assert end.frozen.tolist() == [False, True, False]
    (other,) = simulate(start, Tilt(0.25), integrator, 40, every=40)
    assert torch.equal(other.system.dense()[[0, 2]], end.system.dense()[[0, 2]])


class Tilt(Field):
    """U = f sum z^3."""

    def forward(self, system, pairs):
        return segment_sum(self.strength * system.positions[:, 2] ** 3, system.batch, system.n_systems)


def test_bad_constraints_are_refused_by_name():
    system, bonds = chain(2)
    box = System.single(torch.rand(3, 3).double(), masses=[1.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="itself"):
        RigidBonds(torch.tensor([[1, 1]]), torch.ones(1))
    with pytest.raises(ValueError, match="distance"):
        RigidBonds(torch.tensor([[0, 1]]), -torch.ones(1))
    with pytest.raises(ValueError, match="particles 0 to 4"):
        RigidBonds.of(system, [(0, 5)])
    with pytest.raises(ValueError, match="two systems"):
        RigidBonds(torch.tensor([[4, 5]]), torch.ones(1)).solver(system)
    with pytest.raises(ValueError, match="no mass"):
        RigidBonds.of(box, [(1, 2)]).solver(box)
    with pytest.raises(ValueError, match="triangle"):
        Settle(torch.tensor([[0, 1, 2]]), 1.0, 2.5)
    with pytest.raises(ValueError, match="unwrapped"):
        Constrained(VelocityVerlet(1.0), bonds).init(rest(system.at(system.positions * 1.01)))
    with pytest.raises(ValueError, match="go with"):
        Constrained(object(), bonds)
    line = System.single(torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]]).double())
    with pytest.raises(ValueError, match="not independent"):
        RigidBonds.of(line, [(0, 1), (1, 2), (0, 2)]).solver(line)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [False, True], ids=["SHAKE", "SETTLE"])
def test_a_compiled_run_on_constraints_is_the_eager_one(closed):
    """torch.compile of the whole step: iterations and warnings stay outside of the compiled pieces, results are the same."""
    system, settle = waters()
    constraints = settle if closed else settle.bonds
    kT = 300 * units.kelvin
    start = constrain(rest(system, thermal_velocities(system, kT, torch.Generator().manual_seed(3))), constraints)
    ends = []
    for compile in (False, True):
        g = torch.Generator().manual_seed(1)
        integrator = Constrained(Langevin(2.0 * units.fs, kT, 1 / units.ps), constraints)
        *_, end = simulate(start, Water(), integrator, 40, every=20, generator=g, compile=compile)
        ends.append(end)
    torch.testing.assert_close(ends[1].system.positions, ends[0].system.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(ends[1].velocities, ends[0].velocities, rtol=0, atol=1e-10)
    assert float((end.system.positions - start.system.positions).norm(dim=1).max()) > 0.1
    assert float(settle.bonds.error(end.system).max()) < 1e-9
