"""Replica exchange against quadrature and closed forms."""

import numpy as np
import pytest
import torch
from scipy.special import betainc

from mlmd.forces import energy_forces
from mlmd.md import Langevin, State, rest, simulate, thermal_velocities
from mlmd.md.constraints import Constrained, RigidBonds, constrain
from mlmd.md.exchange import Exchange, attempted, by_replica, exchange, ladder, round_trips
from mlmd.neighbors import neighbors
from mlmd.potentials.pair import LennardJones
from mlmd.segment import segment_sum
from mlmd.system import System


class DoubleWell(torch.nn.Module):
    """U = h (x^2 - 1)^2 + c x + (y^2 + z^2) / 2 for every particle."""

    cutoff = 0.0
    height, tilt = 1.0, 0.05

    def profile(self, x):
        return self.height * (x**2 - 1) ** 2 + self.tilt * x

    def forward(self, system, pairs):
        x, y, z = system.positions.unbind(1)
        return segment_sum(self.profile(x) + 0.5 * (y**2 + z**2), system.batch, system.n_systems)


class Spring(torch.nn.Module):
    cutoff = 0.0

    def forward(self, system, pairs):
        return segment_sum(0.5 * system.positions.square().sum(1), system.batch, system.n_systems)


def particles(systems, n=1, x=0.0):
    start = torch.zeros(n, 3, dtype=torch.float64)
    start[:, 0] = x
    return System.single(start).replicate(systems)


def boltzmann(kT):
    """(x, weights) of the double well."""
    x = np.linspace(-3, 3, 6001)
    w = np.exp(-DoubleWell().profile(x) / kT)
    return x, w / w.sum()


def run(start, potential, kT, steps, every, seed=0, ladders=1, dt=0.2, friction=0.5):
    generator = torch.Generator().manual_seed(seed)
    integrator = Langevin(dt, kT, friction)
    return list(exchange(start, potential, integrator, steps, every=every, ladders=ladders, generator=generator))


@pytest.fixture(scope="module")
def wells():
    """100 ladders of five rungs, all replicas begun in the left well; kT from 1/14 of the barrier to one half."""
    kT, ladders = ladder(0.07, 0.5, 5), 100
    g = torch.Generator().manual_seed(1)
    start = particles(5 * ladders, x=-1.0)
    start = rest(start, thermal_velocities(start, kT.repeat(ladders), g))
    return kT, run(start, DoubleWell(), kT.repeat(ladders), 4000, 20, ladders=ladders)


def test_a_ladder_is_geometric():
    kT = ladder(0.5, 8.0, 5)
    assert kT.tolist() == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0])


def test_populations_of_a_double_well_are_exact_where_plain_dynamics_stays_in_one_well(wells):
    kT, rounds = wells
    x = torch.stack([e.state.system.positions[:, 0].reshape(-1, 5) for e in rounds[100:]])
    right = (x[:, :, 0] > 0).double().mean(0)  # per ladder
    grid, weights = boltzmann(float(kT[0]))
    expected = weights[grid > 0].sum()
    assert 0.1 < expected < 0.3
    assert right.mean().item() == pytest.approx(expected, abs=float(3 * right.std() / 10))
    g = torch.Generator().manual_seed(2)
    start = particles(100, x=-1.0)
    (plain,) = simulate(
        rest(start, thermal_velocities(start, kT[0], g)), DoubleWell(), Langevin(0.2, kT[0], 0.5), 4000, every=4000, generator=g
    )
    assert float((plain.system.positions[:, 0] > 0).double().mean()) < 0.05  # should be 0.2


def test_every_rung_has_the_energy_of_its_temperature(wells):
    kT, rounds = wells
    energy = torch.stack([e.state.energy.reshape(-1, 5) for e in rounds[100:]]).mean(0)
    for rung, t in enumerate(kT.tolist()):
        x, w = boltzmann(t)
        expected = (DoubleWell().profile(x) * w).sum() + t  # y and z: kT / 2 each
        error = float(energy[:, rung].std() / 10)
        assert energy[:, rung].mean().item() == pytest.approx(expected, abs=3 * error)
        assert error < 0.02 * expected + 0.005  # the test can tell


@pytest.mark.parametrize("n", [1, 4])
def test_oscillators_swap_as_often_as_their_energies_say(n):
    """The energies are gamma variables of shape a = 3n/2, so that P = 2 I_(1/(1+R))(a, a), R = T_2/T_1."""
    kT, ladders, g = ladder(0.2, 0.6, 3), 100, torch.Generator().manual_seed(3)
    system = particles(3 * ladders, n)
    t = kT.repeat(ladders)
    start = system.at(thermal_velocities(system, t, g))  # masses and stiffness 1: positions are distributed like velocities
    rounds = run(rest(start, thermal_velocities(start, t, g)), Spring(), t, 1600, 8, ladders=ladders, friction=1.0)
    ratio, shape = float(kT[1] / kT[0]), 1.5 * n
    expected = 2 * betainc(shape, shape, 1 / (1 + ratio))
    measured = rounds[-1].acceptance  # (L, 2)
    assert rounds[-1].tried.tolist() == [[100, 100]] * ladders
    error = measured.std(0) / np.sqrt(ladders)
    assert float(error.max()) < 0.01
    assert ((measured.mean(0) - expected).abs() < 3 * error).all()


def test_swaps_leave_exact_canonical_samples_canonical():
    kT, ladders, g = ladder(0.2, 0.8, 4), 20_000, torch.Generator().manual_seed(8)
    t, system = kT.repeat(ladders), particles(4 * ladders)
    x = thermal_velocities(system, t, g)  # mass and stiffness 1: the exact distribution of positions, too
    state = State(system.at(x), thermal_velocities(system, t, g), -x, Spring()(system.at(x), None))
    now = Exchange.begin(state, ladders)
    for _ in range(4):
        now = attempted(now, 1 / t.reshape(ladders, 4), g)
    assert 0.2 < float(now.accepted.sum() / now.tried.sum()) < 0.8
    for energy in (now.state.energy, now.state.kinetic_energy):
        for moment, exact in ((1, 1.5), (2, 3.75)):  # of a gamma variable of shape 3/2
            sample = (energy.reshape(ladders, 4) / kT) ** moment
            assert ((sample.mean(0) - exact).abs() < 3.5 * sample.std(0) / ladders**0.5).all()


def test_replicas_keep_their_identity_and_ladders_do_not_mix(wells):
    _, rounds = wells
    history = torch.stack([e.replicas for e in rounds])
    assert torch.equal(history.sort(2).values, torch.arange(5).expand(history.shape))
    jumps = (history[1:].argsort(2) - history[:-1].argsort(2)).abs()
    assert int(jumps.max()) == 1
    assert float(round_trips(history).double().mean()) > 1


def test_trajectories_can_be_followed_by_replica():
    kT, g = ladder(0.2, 0.3, 4).repeat(2), torch.Generator().manual_seed(4)
    start = rest(particles(8), thermal_velocities(particles(8), kT, g))
    rounds = run(start, Spring(), kT, 60, 1, ladders=2, dt=0.02)
    history = torch.stack([e.replicas for e in rounds])
    by_rung = torch.stack([e.state.system.positions for e in rounds])
    followed = by_replica(by_rung, history)
    assert int((history[1:] != history[:-1]).sum()) > 50
    assert float((followed[1:] - followed[:-1]).norm(dim=-1).max()) < 0.1  # one step
    assert float((by_rung[1:] - by_rung[:-1]).norm(dim=-1).max()) > 0.1


def test_a_swap_moves_positions_forces_and_energy_and_scales_velocities():
    kT, g = torch.tensor([0.1, 0.4]).double(), torch.Generator().manual_seed(5)
    x = torch.tensor([[2.0, 0.0, 0.0], [0.1, 0.0, 0.0]]).double()  # the cold rung has the higher energy: always accepted
    start = rest(particles(2).at(x), 0.1 * torch.randn(2, 3, generator=g, dtype=torch.float64))
    (before,) = simulate(start, Spring(), Langevin(1e-3, kT, 0.5), 1, generator=torch.Generator().manual_seed(6))
    (after,) = run(start, Spring(), kT, 1, 1, seed=6, dt=1e-3)
    assert after.replicas.tolist() == [[1, 0]]
    assert torch.equal(after.state.system.positions, before.system.positions.flip(0))
    assert torch.equal(after.state.forces, before.forces.flip(0))
    assert torch.equal(after.state.energy, before.energy.flip(0))
    scale = torch.tensor([[0.5], [2.0]]).double()
    assert torch.allclose(after.state.velocities, before.velocities.flip(0) * scale)


def test_a_run_continued_is_the_run_that_never_stopped():
    kT = ladder(0.2, 0.5, 4)
    whole = run(rest(particles(4, n=2)), Spring(), kT, 100, 10)
    generator, integrator = torch.Generator().manual_seed(0), Langevin(0.2, kT, 0.5)
    *_, half = exchange(rest(particles(4, n=2)), Spring(), integrator, 50, every=10, generator=generator)
    *_, end = exchange(half, Spring(), integrator, 50, every=10, generator=generator)
    assert torch.equal(end.state.system.positions, whole[-1].state.system.positions)
    assert torch.equal(end.replicas, whole[-1].replicas)
    assert torch.equal(end.accepted, whole[-1].accepted)


def test_ladders_of_different_molecules_share_a_batch():
    parts = [particles(3, n=1), particles(3, n=4)]
    kT = ladder(0.2, 0.4, 3).repeat(2)
    rounds = run(rest(System.stack(parts)), Spring(), kT, 400, 10, ladders=2)
    assert int(rounds[-1].accepted.min()) > 0
    energy = rounds[-1].state.energy
    assert torch.allclose(Spring()(rounds[-1].state.system, None), energy)


def test_energies_and_forces_are_those_of_the_positions_with_a_neighbour_list():
    law = LennardJones(1.0, 1.0, cutoff=2.5).double()
    grid = torch.cartesian_prod(*[torch.arange(2.0)] * 3).double() * 1.1
    start = rest(System.single(grid, cell=[6.0] * 3).replicate(3))
    end = run(start, law, ladder(0.2, 0.4, 3), 300, 10, dt=0.005)[-1]
    with torch.no_grad():
        fresh = energy_forces(law, end.state.system, neighbors(end.state.system, 2.5))
    assert int(end.accepted.sum()) > 5
    assert torch.allclose(end.state.energy, fresh.energy, atol=1e-9)
    assert torch.allclose(end.state.forces, fresh.forces, atol=1e-9)


def test_rigid_molecules_stay_rigid():
    system = System.single([[0.0, 0.0, 0.0], [1.2, 0.0, 0.0]]).to(torch.float64).replicate(4)
    bonds, kT, g = RigidBonds.of(system, [(0, 1)]), ladder(0.2, 0.5, 4), torch.Generator().manual_seed(7)
    start = constrain(rest(system, thermal_velocities(system, kT, g)), bonds)
    rounds = list(exchange(start, Spring(), Constrained(Langevin(0.1, kT, 0.5), bonds), 200, every=10, generator=g))
    assert int(rounds[-1].accepted.sum()) > 0
    assert float(bonds.error(rounds[-1].state.system).max()) < 1e-9


def test_reporters_keep_their_period_over_the_attempts_and_are_finished_once():
    class Seen:
        every = 15

        def __init__(self, last=None):
            self.steps, self.finished, self.last = [], 0, last

        def __call__(self, state):
            self.steps.append(state.step)
            return state.step == self.last

        def finish(self):
            self.finished += 1

    kT = ladder(0.2, 0.4, 2)
    seen, ends = Seen(), Seen(last=45)
    run_ = exchange(rest(particles(2)), Spring(), Langevin(0.1, kT, 0.5), 60, every=10, report=[seen])
    assert [e.state.step for e in run_] == [10, 20, 30, 40, 50, 60]
    assert (seen.steps, seen.finished) == ([15, 30, 45, 60], 1)
    stopped = exchange(rest(particles(2)), Spring(), Langevin(0.1, kT, 0.5), 60, every=10, stop=[ends])
    assert [e.state.step for e in stopped] == [10, 20, 30, 40]
    assert ends.finished == 1


def test_round_trips_count_from_the_lowest_rung_to_the_highest_and_back():
    where = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1], [1, 0, 2], [0, 1, 2], [0, 2, 1], [0, 1, 2]])  # rung of each replica
    history = where.argsort(1)[:, None]  # replica on each rung
    assert round_trips(history).tolist() == [[1, 0, 0]]


def test_impossible_ladders_are_refused_by_name():
    kT = ladder(0.2, 0.4, 4)
    start = rest(particles(4))
    with pytest.raises(ValueError, match="kT_min"):
        ladder(0.4, 0.2, 3)
    with pytest.raises(ValueError, match="ladders=3"):
        Exchange.begin(start, ladders=3)
    with pytest.raises(ValueError, match="same molecule"):
        Exchange.begin(rest(System.stack([particles(1), particles(1, n=2)])))
    with pytest.raises(ValueError, match="cell"):
        Exchange.begin(rest(System.stack([System.single(torch.zeros(1, 3), cell=c) for c in (5.0, 6.0)])))
    with pytest.raises(ValueError, match="one temperature for each"):
        next(exchange(start, Spring(), Langevin(0.1, 0.2, 0.5), 10, every=10))
    with pytest.raises(ValueError, match="multiple of every"):
        next(exchange(start, Spring(), Langevin(0.1, kT, 0.5), 15, every=10))
    with pytest.raises(ValueError, match="on_unstable"):
        next(exchange(start, Spring(), Langevin(0.1, kT, 0.5), 10, every=10, on_unstable="freeze"))
    with pytest.raises(ValueError, match="history"):
        by_replica(torch.zeros(2, 4), torch.zeros(2, 4))
