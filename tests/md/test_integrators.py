"""Integrators against exact results."""

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.errors import Unstable
from mlmd.md import Langevin, VelocityVerlet, half_step_kT, rest, simulate, thermal_velocities
from mlmd.potentials.pair import LennardJones
from mlmd.system import System


class Spring(torch.nn.Module):
    """U = k x^2 / 2 for every particle: the oscillator whose answers are known."""

    cutoff = 0.0

    def __init__(self, k=1.0):
        super().__init__()
        self.k = k

    def forward(self, system, pairs):
        energy = 0.5 * self.k * system.positions.square().sum(-1)
        return energy.reshape(system.n_systems, -1).sum(1)


def oscillators(systems, n=1, mass=1.0):
    x = torch.zeros(n, 3, dtype=torch.float64)
    return System.single(x, masses=torch.full((n,), mass, dtype=torch.float64)).replicate(systems)


def energy_fluctuation(dt):
    system = oscillators(1)
    start = rest(system.at(torch.tensor([[1.0, 0.5, -0.2]]).double()), torch.tensor([[0.1, 0.9, 0.3]]).double())
    states = list(simulate(start, Spring(), VelocityVerlet(dt), round(40 / dt), every=1))
    return float(torch.stack([s.energy + s.kinetic_energy for s in states]).std())


def test_verlet_energy_error_is_of_second_order():
    assert energy_fluctuation(0.1) / energy_fluctuation(0.05) == pytest.approx(4.0, rel=0.05)


def test_verlet_retraces_its_path_when_velocities_are_reversed():
    torch.manual_seed(1)
    system = System.single(torch.rand(20, 3).double() * 6, cell=[6.0, 6.0, 6.0])
    law = LennardJones(0.1, 1.2, cutoff=2.5).double()
    system = _relaxed(system, law)
    start = rest(system, 0.05 * torch.randn(20, 3).double())
    (there,) = simulate(start, law, VelocityVerlet(0.01), 50, every=50)
    (back,) = simulate(rest(there.system, -there.velocities), law, VelocityVerlet(0.01), 50, every=50)
    assert torch.allclose(back.system.positions, system.positions, atol=1e-9)


def _relaxed(system, law):
    from mlmd.forces import energy_forces
    from mlmd.neighbors import neighbors

    x = system.positions
    for _ in range(300):
        system = system.at(x)
        with torch.no_grad():
            f = energy_forces(law, system, neighbors(system, law.cutoff)).forces
        x = x + 0.01 * f / f.norm(dim=1, keepdim=True).clamp(min=1.0)
    return system.at(x)


def test_verlet_conserves_momentum():
    torch.manual_seed(2)
    law = LennardJones(0.1, 1.2, cutoff=2.5).double()
    system = _relaxed(System.single(torch.rand(20, 3).double() * 6, cell=[6.0, 6.0, 6.0]), law)
    v = 0.05 * torch.randn(20, 3).double()
    (end,) = simulate(rest(system, v - v.mean(0)), law, VelocityVerlet(0.005), 100, every=100)
    assert float(end.velocities.sum(0).abs().max()) < 1e-12


def test_baoab_gives_the_exact_variance_of_a_harmonic_oscillator_at_a_large_time_step():
    kT, dt = 0.7, 0.9  # omega = 1: dt omega = 0.9, where velocity Verlet alone would be 25 % off in velocities
    g = torch.Generator().manual_seed(3)
    system = oscillators(2000)
    states = list(simulate(rest(system), Spring(), Langevin(dt, kT, 0.5), 1200, every=20, generator=g))[10:]
    x2 = torch.stack([s.system.positions for s in states]).square().mean().item()
    n = 2000 * 3 * 50 / 2  # correlated samples
    assert x2 == pytest.approx(kT, abs=4 * kT * np.sqrt(2 / n))


def test_half_step_velocities_have_the_right_temperature_where_full_step_ones_are_cold():
    kT, dt = 0.7, 0.9
    g = torch.Generator().manual_seed(4)
    states = list(simulate(rest(oscillators(2000)), Spring(), Langevin(dt, kT, 0.5), 1000, every=20, generator=g))[10:]
    half = torch.stack([half_step_kT(s).mean() for s in states]).mean().item()
    full = torch.stack([s.kT.mean() for s in states]).mean().item()
    assert half == pytest.approx(kT, rel=0.02)
    assert full == pytest.approx(kT * (1 - dt**2 / 4), rel=0.03)


def test_every_replica_has_its_own_temperature_friction_and_time_step():
    kT = torch.tensor([0.2, 0.5, 1.0]).double()
    g = torch.Generator().manual_seed(5)
    system = oscillators(3, n=600)
    integrator = Langevin(torch.tensor([0.2, 0.3, 0.4]).double(), kT, torch.tensor([0.5, 1.0, 2.0]).double())
    states = list(simulate(rest(system), Spring(), integrator, 1500, every=25, generator=g))[15:]
    measured = torch.stack([s.system.dense().square().mean((1, 2)) for s in states]).mean(0)
    assert torch.allclose(measured, kT, rtol=0.05)


def test_free_particles_diffuse_as_langevin_says():
    kT, friction, dt, steps = 0.3, 0.5, 0.1, 400
    g = torch.Generator().manual_seed(6)
    system = oscillators(4000)
    start = rest(system, thermal_velocities(system, kT, g))
    (end,) = simulate(start, Spring(0.0), Langevin(dt, kT, friction), steps, every=steps, generator=g)
    t = dt * steps
    expected = 2 * kT / friction * (t - (1 - np.exp(-friction * t)) / friction)  # per component (Ornstein and Uhlenbeck)
    assert end.system.positions.square().mean().item() == pytest.approx(expected, rel=4 * np.sqrt(2 / 12000))


def test_the_result_does_not_depend_on_how_often_the_list_is_rebuilt():
    torch.manual_seed(7)
    law = LennardJones(0.05, 1.2, cutoff=2.5).double()
    system = _relaxed(System.single(torch.rand(60, 3).double() * 8, cell=[8.0, 8.0, 8.0]), law)
    ends = []
    for skin, every in ((0.02, 60), (0.6, 60), (1.4, 7)):
        g = torch.Generator().manual_seed(8)
        *_, end = simulate(rest(system), law, Langevin(0.02, 0.05, 0.5), 60, every=every, generator=g, skin=skin)
        ends.append(end.system.positions)
    assert torch.allclose(ends[0], ends[1], atol=1e-10)
    assert torch.allclose(ends[0], ends[2], atol=1e-10)


def test_an_exploding_replica_is_named_and_the_last_good_state_kept():
    class Cliff(Spring):
        def forward(self, system, pairs):
            bad = system.positions.reshape(system.n_systems, -1)[:, 0] > 0.5
            return super().forward(system, pairs) + torch.where(bad, torch.nan, 0.0)

    system = oscillators(3)
    v = torch.zeros(3, 3).double()
    v[1, 0] = 1.0
    with pytest.raises(Unstable) as caught:
        list(simulate(rest(system, v), Cliff(), VelocityVerlet(0.01), 500, every=100))
    assert caught.value.systems == [1]
    assert bool(torch.isfinite(caught.value.last_good.system.positions).all())
    assert float(caught.value.last_good.system.positions.max()) < 0.5


@pytest.mark.parametrize("bad", [{"dt": 0.0}, {"kT": -1.0}, {"friction": 0.0}])
def test_impossible_settings_are_refused_by_name(bad):
    values = {"dt": 1.0, "kT": 300 * units.kelvin, "friction": 1 / units.ps} | bad
    with pytest.raises(ValueError, match=next(iter(bad))):
        Langevin(**values)


def test_one_value_per_system_is_checked():
    with pytest.raises(ValueError, match="one value per system"):
        list(simulate(rest(oscillators(3)), Spring(), Langevin(torch.ones(2), 1.0, 1.0), 1))
