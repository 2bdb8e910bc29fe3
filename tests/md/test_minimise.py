"""Minimisers against known minima and another package."""

import numpy as np
import pytest
import torch

from mlmd.errors import Unstable
from mlmd.forces import energy_forces
from mlmd.md.minimise import FIRE, LBFGS, minimise
from mlmd.neighbors import neighbors
from mlmd.potentials.pair import LennardJones
from mlmd.segment import segment_sum
from mlmd.system import System

LAW = LennardJones(1.0, 1.0, cutoff=20.0, onset=19.0).double()  # no particle of a cluster is that far from another
EVERY = pytest.mark.parametrize("method", [FIRE(), LBFGS()], ids=["FIRE", "LBFGS"])

# Global minima of Lennard-Jones clusters in units of epsilon: Wales and Doye, J. Phys. Chem. A 101, 5111 (1997)
LJ13, LJ38 = -44.326801, -173.928427


def icosahedron():
    """13 particles: a centre and 12 corners."""
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, a, b * golden) for a in (1, -1) for b in (1, -1)]
    corners = [w for x, y, z in corners for w in ((x, y, z), (z, x, y), (y, z, x))]
    x = torch.tensor([(0.0, 0.0, 0.0), *corners]).double()
    return x / x[1].norm() * 1.08


def truncated_octahedron():
    """38 particles: the sites of a face-centred cubic lattice nearest to an octahedral hole."""
    grid = torch.cartesian_prod(*[torch.arange(-4.0, 5.0)] * 3).double()
    sites = grid[grid.sum(1).long() % 2 != 0]
    return sites[sites.square().sum(1) < 6] * 1.1 / 2**0.5


def shaken(x, *widths, seed=0):
    g = torch.Generator().manual_seed(seed)
    return System.stack([System.single(x + w * torch.randn(x.shape, generator=g, dtype=x.dtype)) for w in widths])


class Springs(torch.nn.Module):
    """U = sum k (x - a)^2 / 2 with stiffness between 1 and 100: the minimum is at a with energy 0."""

    cutoff = 0.0

    def forward(self, system, pairs):
        n = torch.arange(len(system)) % 4
        u = 0.5 * 100.0 ** (n / 3)[:, None] * (system.positions - 1.0) ** 2
        return segment_sum(u.sum(1), system.batch, system.n_systems)


@EVERY
def test_thirteen_particles_find_the_icosahedron(method):
    *_, end = minimise(shaken(icosahedron(), 0.05, 0.1, 0.15, 0.2), LAW, method, tolerance=1e-6)
    assert end.converged.all()
    assert end.energy.tolist() == pytest.approx([LJ13] * 4, abs=1e-6)


@EVERY
def test_thirty_eight_particles_find_the_truncated_octahedron_and_it_is_a_minimum(method):
    start = shaken(truncated_octahedron(), 0.05)
    *_, end = minimise(start, LAW, method, tolerance=1e-7)
    assert end.energy.item() == pytest.approx(LJ38, abs=1e-6)
    x = end.system.positions
    hessian = torch.autograd.functional.hessian(lambda x: LAW(end.system.at(x), neighbors(end.system, 20.0)).sum(), x)
    spectrum = torch.linalg.eigvalsh(hessian.reshape(3 * 38, 3 * 38))
    assert float(spectrum[:6].abs().max()) < 1e-4  # three translations, three rotations
    assert float(spectrum[6]) > 1.0


@EVERY
def test_a_batch_is_its_systems_one_by_one(method):
    parts = [shaken(icosahedron(), 0.1), shaken(icosahedron()[:7], 0.1, seed=1), shaken(truncated_octahedron(), 0.05)]
    *_, together = minimise(System.stack(parts), LAW, method, tolerance=1e-4, skin=100.0)
    alone = [list(minimise(p, LAW, method, tolerance=1e-4, skin=100.0))[-1] for p in parts]
    assert together.steps.tolist() == [int(a.steps) for a in alone]
    assert len(set(together.steps.tolist())) == 3  # each stopped by itself
    assert torch.allclose(together.system.positions, torch.cat([a.system.positions for a in alone]), atol=1e-9)


@EVERY
def test_a_system_that_has_converged_stays_bit_for_bit(method):
    start = shaken(icosahedron(), 0.0, 0.2)
    done = None
    for now in minimise(start, LAW, method, tolerance=1e-3, every=1):
        if done is not None:
            assert torch.equal(now.system.dense()[0], done.system.dense()[0])
            assert int(now.steps[0]) == int(done.steps[0])
        done = now if bool(now.converged[0]) and done is None else done
    assert now.converged.all()
    assert int(now.steps[1]) > int(done.steps[0])


@EVERY
def test_the_result_is_that_of_ase(method):
    ase = pytest.importorskip("ase")
    from ase.calculators.lj import LennardJones as Theirs
    from ase.optimize import BFGS

    start = shaken(icosahedron()[:11], 0.05, seed=3)
    *_, ours = minimise(start, LAW, method, tolerance=1e-6)
    atoms = ase.Atoms("Ar11", positions=start.positions.numpy(), calculator=Theirs(sigma=1.0, epsilon=1.0, rc=1000.0))
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=500)
    assert ours.energy.item() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    distances = torch.pdist(ours.system.positions).sort().values.numpy()
    theirs = torch.pdist(torch.as_tensor(atoms.positions)).sort().values.numpy()
    assert np.abs(distances - theirs).max() < 1e-5


@EVERY
def test_stiff_and_soft_springs_come_to_rest(method):
    *_, end = minimise(System.single(torch.zeros(4, 3).double()), Springs(), method, tolerance=1e-8)
    assert float((end.system.positions - 1.0).abs().max()) < 1e-8


def test_lbfgs_takes_fewer_evaluations_than_fire_near_a_minimum():
    start = shaken(truncated_octahedron(), 0.05)
    fire, lbfgs = (list(minimise(start, LAW, m, tolerance=1e-5))[-1] for m in (FIRE(), LBFGS()))
    assert int(lbfgs.steps) < 0.5 * int(fire.steps)


@EVERY
def test_single_precision_reaches_forces_above_its_rounding(method):
    start = shaken(truncated_octahedron(), 0.05).to(torch.float32)
    *_, end = minimise(start, LennardJones(1.0, 1.0, cutoff=20.0, onset=19.0), method, tolerance=1e-3)
    assert end.converged.all()
    exact = LAW(end.system.to(torch.float64), neighbors(end.system.to(torch.float64), 20.0))
    assert exact.item() == pytest.approx(LJ38, abs=1e-5)


@EVERY
def test_the_energy_reported_is_that_of_the_positions_although_lists_are_reused(method):
    g = torch.Generator().manual_seed(4)
    grid = torch.cartesian_prod(*[torch.arange(4.0)] * 3).double() * 1.15
    start = System.single(grid + 0.12 * torch.randn(64, 3, generator=g, dtype=torch.float64), cell=[4.6] * 3)
    law = LennardJones(1.0, 1.0, cutoff=2.2).double()
    seen = list(minimise(start, law, method, tolerance=1e-3, every=5, skin=0.1))
    for now in seen:
        with torch.no_grad():
            fresh = energy_forces(law, now.system, neighbors(now.system, 2.2))
        assert torch.allclose(fresh.energy, now.energy, atol=1e-9)
        assert torch.allclose(fresh.forces, now.forces, atol=1e-9)
    assert seen[-1].converged.all()
    assert float((seen[-1].system.positions - start.positions).norm(dim=1).max()) > 0.1  # the list was renewed


def test_no_particle_moves_further_than_allowed():
    start = shaken(icosahedron(), 0.3)
    for method in (FIRE(longest=0.05), LBFGS(longest=0.05)):
        x = start.positions
        for now in minimise(start, LAW, method, tolerance=1e-3, every=1, steps=30):
            assert float((now.system.positions - x).norm(dim=1).max()) <= 0.05 + 1e-12
            x = now.system.positions


def test_running_out_of_steps_is_said_and_not_raised():
    *_, relaxed = minimise(shaken(icosahedron(), 0.0), LAW, LBFGS(), tolerance=1e-3)
    *_, end = minimise(System.stack([relaxed.system, shaken(icosahedron(), 0.2)]), LAW, FIRE(), tolerance=0.05, steps=30)
    assert end.converged.tolist() == [True, False]
    assert end.steps.tolist()[1] == 30
    (nothing,) = minimise(shaken(icosahedron(), 0.2), LAW, steps=0)
    assert torch.equal(nothing.system.positions, shaken(icosahedron(), 0.2).positions)


@EVERY
def test_an_energy_that_is_not_finite_is_named_and_the_last_good_point_kept(method):
    class Cliff(Springs):
        def forward(self, system, pairs):
            first = system.positions.reshape(system.n_systems, -1)[:, 0]
            return super().forward(system, pairs) + torch.where(first > 0.5, torch.nan, 0.0)

    x = torch.tensor([-1.0, 0.0]).double().repeat_interleave(4)[:, None].repeat(1, 3)
    start = System.stack([System.single(x[:4]), System.single(x[4:])])
    with pytest.raises(Unstable) as caught:
        list(minimise(start, Cliff(), method, tolerance=1e-3))
    assert caught.value.systems == [1]
    assert bool(torch.isfinite(caught.value.last_good.energy).all())


def test_impossible_settings_are_refused_by_name():
    system = System.single(torch.zeros(4, 3).double())
    with pytest.raises(ValueError, match="tolerance=0"):
        list(minimise(system, Springs(), tolerance=0.0))
    with pytest.raises(ValueError, match="steps=-1"):
        list(minimise(system, Springs(), steps=-1))
    with pytest.raises(ValueError, match="dt=0"):
        FIRE(dt=0.0)
    with pytest.raises(ValueError, match="stiffness"):
        LBFGS(stiffness=-1.0)
