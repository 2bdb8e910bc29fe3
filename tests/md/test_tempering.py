"""A ladder of temperatures samples the exact torsional distribution across barriers that dynamics alone does not cross."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.forces import energy_forces
from mlmd.md import Langevin, Limits, Tempering, ladder, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.bonded import Bonded, FourierDihedrals, HarmonicAngles, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

KT = 300 * units.kelvin
FAR = Limits(displacement=float("inf"))
A, B = [0.02, 0.06, 0.1], [0.05, 0.0, 0.0]  # barriers of about 8 kT between wells of unequal depth


def butane():
    coordinates = InternalCoordinates(
        4, torch.combinations(torch.arange(4)), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0, 1, 2, 3]])
    )
    stiff = [
        HarmonicBonds([0, 3, 5], torch.full((3,), 20.0), torch.full((3,), 1.5)),
        HarmonicAngles([0, 1], torch.full((2,), 3.0), torch.full((2,), 1.9)),
    ]
    return Bonded(coordinates, [*stiff, FourierDihedrals([0], torch.tensor([A]), torch.tensor([B]))])


def start(replicas):
    """In the rare well."""
    x = torch.tensor([[0.0, 1.4, -0.5], [0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0]])
    return replace(System.single(x).replicate(replicas), masses=torch.full((4 * replicas,), 14 * units.amu))


def boltzmann(bins):
    """Exact populations of equal bins of the dihedral."""
    phi = np.linspace(-np.pi, np.pi, bins * 200, endpoint=False) + np.pi / (bins * 200)
    n = np.arange(1, 4)[:, None]
    weight = np.exp(-(np.array(A) @ np.cos(n * phi) + np.array(B) @ np.sin(n * phi)) / KT).reshape(bins, -1).sum(1)
    return weight / weight.sum()


def shares(run, every):
    potential = butane()
    phi = [potential.coordinates(s.system.dense()[::every].reshape(-1, 3))[2][0] for s in run]
    counts, _ = np.histogram(torch.cat(phi).numpy(), bins=12, range=(-np.pi, np.pi))
    return counts / counts.sum()


def test_wells_are_populated_as_the_potential_says_from_a_start_that_dynamics_alone_does_not_leave():
    g, rungs, n = torch.Generator().manual_seed(2), 4, 100
    warm = Langevin(4.0, ladder(KT, 4 * KT, rungs).repeat(n), 0.003)
    hot = rest(start(n * rungs), thermal_velocities(start(n * rungs), warm.kT, g))
    cold = Langevin(4.0, KT, 0.003)
    alone = simulate(rest(start(n)), butane(), cold, 1000, every=50, generator=g)
    ladders = simulate(hot, butane(), Tempering(warm, n, every=10), 2500, every=50, generator=g, limits=FAR)
    exact = boltzmann(12)
    error = np.sqrt(exact * (1 - exact) / (2 * n))  # each ladder counted twice; more of its 20 snapshots are independent
    assert 0.5 * np.abs(shares(list(alone)[5:], 1) - exact).sum() > 0.4
    assert (np.abs(shares(list(ladders)[30:], rungs) - exact) < 4 * error).all()


def one_step(chance, step=0):
    potential, kT = LennardJones(0.002, 3.0, cutoff=9.0), ladder(KT, 2 * KT, 3)
    system = start(3).to(torch.float64)
    x = system.positions * torch.tensor([3.0, 3.3, 3.6], dtype=torch.float64).repeat_interleave(4)[:, None]
    system = replace(system, positions=x)
    pairs = neighbors(system, 9.0)

    def force(system, stress=False):
        return energy_forces(potential, system, pairs, stress=stress)

    tempering = Tempering(Langevin(2.0, kT, 0.01), 1, every=5)
    v = thermal_velocities(system, kT, torch.Generator().manual_seed(0))
    at = force(system)
    state = tempering.init(replace(rest(system, v), step=step, forces=at.forces.detach(), energy=at.energy.detach()))
    noise = torch.zeros(12, 3, dtype=torch.float64)
    after = tempering.step(state, force, (noise, torch.full((1, 2), chance, dtype=torch.float64)))
    return state, tempering.integrator, force, noise, after


def test_a_swap_exchanges_configurations_and_scales_velocities_to_the_temperature():
    state, langevin, force, noise, after = one_step(chance=0.0)
    order, scale = torch.tensor([1, 0, 2]), torch.tensor([2**-0.25, 2**0.25, 1.0], dtype=torch.float64)
    atoms = (4 * order[:, None] + torch.arange(4)).reshape(-1)
    by_hand = replace(
        state,
        system=state.system.at(state.system.positions[atoms]),
        velocities=state.velocities[atoms] * scale.repeat_interleave(4)[:, None],
        forces=state.forces[atoms],
        energy=state.energy[order],
    )
    assert torch.allclose(after.system.positions, langevin.step(by_hand, force, noise).system.positions, atol=1e-12)


@pytest.mark.parametrize(("chance", "step"), [(1.0, 0), (0.0, 3)])
def test_a_step_without_swap_is_that_of_the_integrator(chance, step):
    state, langevin, force, noise, after = one_step(chance, step)
    if chance == 1.0:  # only a swap that costs nothing would be made
        assert state.energy[0] < state.energy[1]
    assert torch.equal(after.system.positions, langevin.step(state, force, noise).system.positions)


def test_ladders_that_cannot_be_are_refused():
    three = Langevin(2.0, ladder(KT, 2 * KT, 3), 0.01)
    with pytest.raises(ValueError, match="two rungs or more"):
        Tempering(three, ladders=3, every=10)
    with pytest.raises(ValueError, match="two rungs or more"):
        Tempering(Langevin(2.0, KT, 0.01), ladders=1, every=10)
    with pytest.raises(ValueError, match="every=0"):
        Tempering(three, ladders=1, every=0)
