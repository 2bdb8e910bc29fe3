"""Pivot moves sample the exact torsional distribution across barriers that dynamics does not cross."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.forces import energy_forces
from mlmd.md import Langevin, rest, simulate
from mlmd.md.limits import Limits
from mlmd.md.pivot import Pivoting, Pivots, pivot, rotatable
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
    x = torch.tensor([[0.0, 1.4, 0.5], [0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0]])
    return System.single(x).replicate(replicas)


def boltzmann(bins):
    """Exact populations of equal bins of the dihedral."""
    phi = np.linspace(-np.pi, np.pi, bins * 200, endpoint=False) + np.pi / (bins * 200)
    n = np.arange(1, 4)[:, None]
    weight = np.exp(-(np.array(A) @ np.cos(n * phi) + np.array(B) @ np.sin(n * phi)) / KT).reshape(bins, -1).sum(1)
    return weight / weight.sum()


def test_the_dihedral_follows_its_boltzmann_distribution_exactly():
    potential, pivots, g = butane(), rotatable(4, [(0, 1), (1, 2), (2, 3)]), torch.Generator().manual_seed(0)
    system, seen = start(2000), []
    for k in range(150):
        system, _ = pivot(system, potential, pivots, KT, g)
        if k >= 100 and k % 10 == 0:
            seen.append(potential.coordinates(system.positions)[2][0])
    counts, _ = np.histogram(torch.cat(seen).numpy(), bins=12, range=(-np.pi, np.pi))
    assert counts / counts.sum() == pytest.approx(boltzmann(12), abs=4 * np.sqrt(0.25 / 2000))


def test_bonds_and_angles_are_not_changed_by_a_rotation():
    potential, pivots = butane(), rotatable(4, [(0, 1), (1, 2), (2, 3)])
    before = start(50)
    after, accepted = pivot(before, potential, pivots, 1e6, torch.Generator().manual_seed(1))
    assert bool(accepted.all())
    (r0, t0, p0), (r1, t1, p1) = potential.coordinates(before.positions), potential.coordinates(after.positions)
    bonded = [0, 3, 5]
    assert torch.allclose(r0[bonded], r1[bonded], atol=1e-5)
    assert torch.allclose(t0, t1, atol=1e-4)
    assert float((p0 - p1).abs().max()) > 1.0


def test_rings_and_ends_do_not_turn():
    ring = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)]
    assert rotatable(5, ring).axes.tolist() == [[2, 3]]
    assert rotatable(5, ring).moving.tolist() == [[False, False, False, True, True]]
    assert len(rotatable(3, [(0, 1), (1, 2)])) == 0


def test_a_molecule_without_rotatable_bonds_is_refused():
    none = Pivots(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no rotatable bond"):
        pivot(start(1), butane(), none, KT)


def test_dynamics_with_moves_fills_wells_that_dynamics_alone_does_not_reach():
    """From the rare well of butane, 1.6 ps: alone it stays; with moves the wells are populated as the potential says."""
    potential, g = butane(), torch.Generator().manual_seed(2)
    system = start(500)
    system = replace(
        system, positions=system.positions * torch.tensor([1.0, 1.0, -1.0]), masses=torch.full_like(system.masses, 14 * units.amu)
    )
    langevin = Langevin(4.0, KT, 0.01)
    moving = Pivoting(langevin, potential, rotatable(4, [(0, 1), (1, 2), (2, 3)]), every=10, turns=2)
    shares = {}
    for name, integrator in (("alone", langevin), ("with moves", moving)):
        run = list(simulate(rest(system), potential, integrator, 400, every=20, generator=g, limits=FAR))[8:]
        counts, _ = np.histogram(
            torch.cat([potential.coordinates(s.system.positions)[2][0] for s in run]).numpy(), bins=12, range=(-np.pi, np.pi)
        )
        shares[name] = counts / counts.sum()
    exact = boltzmann(12)
    error = np.sqrt(exact * (1 - exact) / 1000)  # each of 500 replicas counted twice; more of its 13 snapshots are independent
    assert 0.5 * np.abs(shares["alone"] - exact).sum() > 0.4
    assert (np.abs(shares["with moves"] - exact) < 4 * error).all()


def test_a_moved_state_carries_the_forces_of_where_it_is_and_steps_between_moves_are_those_of_the_integrator():
    potential = LennardJones(0.002, 3.0, cutoff=9.0)
    system = replace(start(6).to(torch.float64), positions=start(6).positions.double() * 3)
    system = replace(system, masses=torch.full_like(system.masses, 14 * units.amu))
    langevin = Langevin(2.0, KT, 0.01)
    moving = Pivoting(langevin, potential, rotatable(4, [(0, 1), (1, 2), (2, 3)]), every=7, turns=3)
    *_, end = simulate(rest(system), potential, moving, 8, every=1, generator=torch.Generator().manual_seed(4), limits=FAR)
    with torch.no_grad():
        exact = energy_forces(potential, end.system, neighbors(end.system, potential.cutoff))
    assert torch.allclose(end.forces, exact.forces, atol=1e-12)
    force = partial(energy_forces, potential, pairs=neighbors(end.system, potential.cutoff + 5))
    noise = moving.noise(end, torch.Generator().manual_seed(5))
    with torch.no_grad():
        one, other = moving.step(end, force, noise), langevin.step(end, force, noise[0])
    assert torch.equal(one.system.positions, other.system.positions)
    assert moving.dt == 2.0


def test_moves_that_cannot_be_made_are_refused():
    none = Pivots(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="0 rotatable bonds"):
        Pivoting(Langevin(2.0, KT, 0.01), butane(), none, every=10)
    with pytest.raises(ValueError, match="turns=0"):
        Pivoting(Langevin(2.0, KT, 0.01), butane(), rotatable(4, [(0, 1), (1, 2), (2, 3)]), every=10, turns=0)
