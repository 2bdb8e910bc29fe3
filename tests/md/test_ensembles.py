"""The distributions that thermostats and barostats claim to sample, against exact ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from mlmd.forces import Evaluation
from mlmd.md import CSVR, Brownian, CellRescaling, Langevin, NoseHooverChain, rest, simulate, thermal_velocities
from mlmd.md.barostats import SHAPES, _exponential, internal_pressure
from mlmd.md.thermostats import SUZUKI_YOSHIDA, degrees_of_freedom
from mlmd.system import System

KT = 0.7


class OfCell(torch.nn.Module):
    """A potential of the cell alone: U = k (V - V0)^2/2 + c tr(h h^T)/V^(2/3); k = c = 0 is the ideal gas."""

    cutoff = 0.0

    def __init__(self, k: float = 0.0, v0: float = 0.0, c: float = 0.0):
        super().__init__()
        self.k, self.v0, self.c = k, v0, c

    def forward(self, system: System, pairs: None) -> Tensor:
        volume = torch.linalg.det(system.cell).abs()
        spread = system.cell.square().sum((1, 2)) / volume ** (2 / 3)
        return 0.5 * self.k * (volume - self.v0) ** 2 + self.c * spread + 0.0 * system.positions.sum()


def gas(replicas: int, n: int, edge: float) -> System:
    x = edge * torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return System.single(x, cell=edge).replicate(replicas)


def within(samples: Tensor, expected: float, sigmas: float = 3.5) -> None:
    """The mean over independent replicas (last axis) is the expected one, within its standard error."""
    replicas = samples.reshape(-1, samples.shape[-1]).mean(0)
    error = float(replicas.std() / len(replicas) ** 0.5)
    assert float(replicas.mean()) == pytest.approx(expected, abs=sigmas * error)


def cells(potential: torch.nn.Module, barostat: CellRescaling, system: System, steps: int, every: int = 20) -> list[Tensor]:
    g = torch.Generator().manual_seed(2)
    start = rest(system, thermal_velocities(system, barostat.kT, g))
    return [s.system.cell for s in simulate(start, potential, barostat, steps, every=every, generator=g)]


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_volume_of_an_ideal_gas_has_its_gamma_distribution(shape: str) -> None:
    """V^n exp(-pV/kT): mean (n + 1) kT/p, variance (n + 1) (kT/p)^2; every replica at its own pressure."""
    n, p = 9, torch.tensor([0.01, 0.02]).double().repeat_interleave(300)
    edge = ((n + 1) * KT / 0.015) ** (1 / 3)
    barostat = CellRescaling(Langevin(0.1, KT, 0.1), p, 150.0, 4.0, every=1, shape=shape)
    found = torch.stack([torch.linalg.det(h) for h in cells(OfCell(), barostat, gas(600, n, edge), 300, every=15)[8:]])
    for of, pressure in ((slice(0, 300), 0.01), (slice(300, 600), 0.02)):
        scaled = found[:, of] * pressure / KT
        within(scaled, n + 1)
        within((scaled - n - 1) ** 2, n + 1)


def test_the_volume_follows_the_potential_of_the_cell() -> None:
    n, p, k, v0 = 5, 0.02, 1e-4, 300.0
    barostat = CellRescaling(CSVR(0.1, KT, 5.0), p, 40.0, 4.0, every=2)
    found = torch.stack([torch.linalg.det(h) for h in cells(OfCell(k, v0), barostat, gas(400, n, 6.5), 500)[5:]])
    v = np.linspace(1.0, 1500.0, 200_000)
    weight = v**n * np.exp(-(0.5 * k * (v - v0) ** 2 + p * v) / KT)
    weight /= weight.sum()
    mean = float((weight * v).sum())
    within(found, mean)
    within((found - mean) ** 2, float((weight * (v - mean) ** 2).sum()))


class Anchored(OfCell):
    """Particles bound to places, away from which a change of the cell moves them: it is far stiffer for them than relaxed."""

    def forward(self, system: System, pairs: None) -> Tensor:
        bound = 0.5 * (system.positions - 6.0).square().sum(-1)
        return super().forward(system, pairs) + torch.zeros_like(system.cell[:, 0, 0]).index_add(0, system.batch, bound)


def test_the_volume_is_exact_where_a_coupling_step_is_too_long_for_the_stiffness_of_the_cell() -> None:
    """A normal distribution, since the integral over bound particles is a constant; unadjusted steps widen the variance by 12 %."""
    k, v0 = 1e-4, 500.0
    system = System.single(torch.full((3, 3), 6.0).double(), cell=v0 ** (1 / 3)).replicate(600)
    barostat = CellRescaling(Langevin(0.1, KT, 0.3), 0.0, 40.0, 8.0, every=4)
    found = torch.stack([torch.linalg.det(h) for h in cells(Anchored(k, v0), barostat, system, 1200)[15:]])
    within(found, v0)
    within((found - v0) ** 2, KT / k)


@pytest.mark.parametrize("shape", ["anisotropic", "triclinic"])
def test_the_shape_of_a_cell_has_its_invariant_distribution(shape: str) -> None:
    r"""The energy c sum exp(2 t_i) of the principal stretches exp(t_i), sum t = 0.

    The measure is flat in t for orthogonal boxes and prod sinh|t_i - t_j| for all cells (the invariant one of matrices of unit
    determinant): dh V^-2 of the isobaric ensemble with a flexible cell.
    """
    n, p, c = 5, 0.02, 1.0
    t = np.linspace(-3, 3, 801)
    a, b = np.meshgrid(t, t)
    third = -a - b
    energy = c * (np.exp(2 * a) + np.exp(2 * b) + np.exp(2 * third))
    measure = np.abs(np.sinh(a - b) * np.sinh(b - third) * np.sinh(a - third)) if shape == "triclinic" else 1.0
    weight = measure * np.exp(-(energy - 3 * c) / KT)
    expected = float((weight * energy).sum() / weight.sum())
    barostat = CellRescaling(Langevin(0.1, KT, 0.1), p, 100.0, 8.0, every=1, shape=shape)
    found = cells(OfCell(c=c), barostat, gas(400, n, 6.0), 700)[8:]
    spread = torch.stack([h.square().sum((1, 2)) / torch.linalg.det(h) ** (2 / 3) for h in found])
    within(c * spread, expected)
    if shape == "anisotropic":
        assert float((found[-1] - torch.diag_embed(found[-1].diagonal(dim1=1, dim2=2))).abs().max()) == 0


def test_fractional_coordinates_are_kept_when_the_cell_changes() -> None:
    system = gas(3, 4, 6.0)
    barostat = CellRescaling(Langevin(0.1, KT, 0.1), 0.02, 40.0, 8.0, every=1, shape="triclinic")
    state = barostat.init(rest(system))
    noise = barostat.noise(state, torch.Generator().manual_seed(1))
    nothing = Evaluation(state.energy, state.forces, torch.zeros(3, 3, 3, dtype=torch.float64))
    after, _, _ = barostat._proposed(system, barostat._push(system, nothing, state.memory), state.memory, noise)
    before = torch.linalg.solve(system.cell.mT[system.batch], system.positions[..., None])
    now = torch.linalg.solve(after.cell.mT[system.batch], after.positions[..., None])
    torch.testing.assert_close(before, now, rtol=1e-12, atol=1e-12)
    assert float((after.cell - system.cell).abs().max()) > 0.01


def test_the_exponential_of_a_strain_is_exact() -> None:
    a = torch.randn(20, 3, 3, dtype=torch.float64) * torch.logspace(-4, -1, 20)[:, None, None]
    a = 0.5 * (a + a.mT)
    values, vectors = torch.linalg.eigh(a)
    torch.testing.assert_close(_exponential(a), vectors @ torch.diag_embed(values.exp()) @ vectors.mT, rtol=0, atol=1e-14)


def test_the_internal_pressure_of_an_ideal_gas() -> None:
    system = gas(2, 10, 5.0)
    p = internal_pressure(system, torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 3, dtype=torch.float64))
    torch.testing.assert_close(p, torch.eye(3).double() * torch.tensor([10 / 125, 20 / 125]).double()[:, None, None])


def free(replicas: int, n: int) -> System:
    return System.single(torch.zeros(n, 3, dtype=torch.float64)).replicate(replicas)


class Nothing(torch.nn.Module):
    cutoff = 0.0

    def forward(self, system: System, pairs: None) -> Tensor:
        return torch.zeros(system.n_systems, dtype=system.positions.dtype)


@pytest.mark.parametrize("removed", [0, 3])
def test_rescaled_velocities_relax_exponentially_to_the_gamma_distribution(removed: int) -> None:
    """Free particles: the mean of K obeys dK/dt = (f kT/2 - K)/tau exactly for any time step, and K/kT ends as Gamma(f/2)."""
    n, dt, tau, replicas = 4, 0.5, 2.0, 4000
    f, system = 3 * n - removed, free(replicas, n)
    g = torch.Generator().manual_seed(3)
    v = thermal_velocities(system, 4 * KT, g).reshape(replicas, n, 3)
    v = (v - v.mean(1, keepdim=True)) if removed else v
    states = list(simulate(rest(system, v.reshape(-1, 3)), Nothing(), CSVR(dt, KT, tau, removed), 60, every=1, generator=g))
    for k in (0, 3, 7):
        decay = np.exp(-(k + 1) * dt / tau)
        within(states[k].kinetic_energy[None], f * KT / 2 * (1 + 3 * decay))
    assert stats.kstest(states[-1].kinetic_energy.numpy() / KT, stats.gamma(f / 2).cdf).pvalue > 0.01


def test_one_degree_of_freedom_is_rescaled_to_a_normal_distribution() -> None:
    """Two particles on a line, momentum removed: f = 1, where only the sign of alpha makes both directions equally likely."""
    v = torch.zeros(3000, 2, 3, dtype=torch.float64)
    v[:, 0, 0], v[:, 1, 0] = 1.0, -1.0
    integrator = CSVR(1.0, KT, 2.0, removed=5)
    g = torch.Generator().manual_seed(4)
    (end,) = simulate(rest(free(3000, 2), v.reshape(-1, 3)), Nothing(), integrator, 40, every=40, generator=g)
    relative = (2 / KT) ** 0.5 * end.velocities.reshape(3000, 2, 3)[:, 0, 0]
    assert stats.kstest(relative.numpy(), "norm").pvalue > 0.01


def test_brownian_positions_in_a_harmonic_well_have_the_exact_variance_at_a_large_time_step() -> None:
    """Euler and Maruyama's scheme would be too wide by 1/(1 - dt k/(2 friction m)) = 1.67 here."""
    from tests.md.test_integrators import Spring, oscillators

    g = torch.Generator().manual_seed(5)
    states = list(simulate(rest(oscillators(1500)), Spring(), Brownian(0.8, KT, 1.0), 500, every=10, generator=g))[5:]
    within(torch.stack([s.system.positions.square().mean(1) for s in states]), KT)


def test_brownian_particles_diffuse_with_kT_over_friction_times_mass() -> None:
    g, steps = torch.Generator().manual_seed(6), 200
    system = System.single(torch.zeros(3000, 3).double(), masses=torch.full((3000,), 2.0).double())
    (end,) = simulate(rest(system), Nothing(), Brownian(0.1, KT, 0.5), steps, every=steps, generator=g)
    diffusion = KT / (0.5 * 2.0)
    within(end.system.positions.square().mean(1)[None], 2 * diffusion * 0.1 * (steps - 0.75))  # half a jump first and last
    assert float(end.velocities.abs().max()) == 0


class DoubleWell(torch.nn.Module):
    """U = 3 (x^2 - 1)^2 + 0.3 x + (y^2 + z^2)/2, each particle for itself."""

    cutoff = 0.0

    def forward(self, system: System, pairs: None) -> Tensor:
        x = system.dense()
        u = 3.0 * (x[..., 0] ** 2 - 1) ** 2 + 0.3 * x[..., 0] + 0.5 * x[..., 1:].square().sum(-1)
        return u.sum(1)


@pytest.mark.parametrize("integrator", [Langevin(0.1, 1.0, 0.7), Brownian(0.02, 1.0, 1.0)], ids=lambda i: type(i).__name__)
def test_the_populations_of_a_double_well_are_those_of_boltzmann(integrator: Langevin | Brownian) -> None:
    x = np.linspace(-3, 3, 20_001)
    weight = np.exp(-(3.0 * (x**2 - 1) ** 2 + 0.3 * x))
    cdf = np.cumsum(weight) / weight.sum()
    start = System.single(torch.zeros(1, 3).double()).replicate(3000)
    g = torch.Generator().manual_seed(7)
    states = list(simulate(rest(start), DoubleWell(), integrator, 1000, every=100, generator=g))
    left = torch.stack([(s.system.positions[:, 0] < 0).double() for s in states[5:]])
    within(left, float(np.interp(0.0, x, cdf)))
    assert stats.kstest(states[-1].system.positions[:, 0].numpy(), lambda s: np.interp(s, x, cdf)).pvalue > 0.01


@pytest.mark.parametrize(("order", "powers"), [(3, (3,)), (5, (3,)), (7, (3, 5))])
def test_the_weights_of_suzuki_and_yoshida_cancel_the_errors_of_lower_order(order: int, powers: tuple[int, ...]) -> None:
    weights = SUZUKI_YOSHIDA[order]
    assert len(weights) == order
    assert sum(weights) == pytest.approx(1.0, abs=1e-14)
    assert weights == weights[::-1]
    for power in powers:
        assert sum(w**power for w in weights) == pytest.approx(0.0, abs=1e-12)


def test_degrees_of_freedom_are_counted_per_system() -> None:
    system = System.stack([System.single(torch.zeros(n, 3)) for n in (1, 4)])
    assert degrees_of_freedom(system).tolist() == [3, 12]
    assert degrees_of_freedom(system, torch.tensor([0, 3])).tolist() == [3, 9]
    with pytest.raises(ValueError, match="removed=3"):
        degrees_of_freedom(system, 3)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: NoseHooverChain(1.0, 1.0, 10.0, length=0), "length=0"),
        (lambda: NoseHooverChain(1.0, 1.0, 10.0, order=4), "order=4"),
        (lambda: NoseHooverChain(1.0, 1.0, -1.0), "time=-1"),
        (lambda: CSVR(1.0, 1.0, 0.0), "time=0"),
        (lambda: Brownian(1.0, 1.0, 0.0), "friction=0"),
        (lambda: CellRescaling(CSVR(1.0, 1.0, 9.0), 0.0, -1.0, 99.0), "compressibility=-1"),
        (lambda: CellRescaling(CSVR(1.0, 1.0, 9.0), 0.0, 1.0, 9.0), "longer than every=10 steps"),
        (lambda: CellRescaling(CSVR(1.0, 1.0, 9.0), 0.0, 1.0, 99.0, shape="cubic"), "shape='cubic'"),
        (lambda: CellRescaling(CSVR(1.0, 1.0, 9.0), 0.0, 1.0, 99.0, every=0), "every=0"),
    ],
)
def test_impossible_settings_are_refused_by_name(make, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def test_an_open_system_has_no_constant_pressure() -> None:
    with pytest.raises(ValueError, match="not periodic in three directions"):
        next(simulate(rest(free(1, 2)), Nothing(), CellRescaling(CSVR(1.0, 1.0, 9.0), 0.0, 1.0, 99.0), 1))
