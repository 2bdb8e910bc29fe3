"""Mean square displacements and correlation functions agree with analytic motion and with the direct sum."""

import numpy as np
import pytest
import torch
from scipy.special import erfc

from mlmd import units
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.observables import (
    VACF,
    autocorrelation_time,
    diffusion_coefficient,
    finite_size_correction,
    green_kubo,
    msd,
    vacf,
)
from mlmd.potentials.compose import Potential
from mlmd.system import System


class Free(Potential):
    """No force."""

    def analytic(self, system: System, pairs: object) -> tuple[torch.Tensor, torch.Tensor]:
        return system.positions.new_zeros(system.n_systems), torch.zeros_like(system.positions)


def direct(x: np.ndarray, lag: int) -> float:
    return float(((x[lag:] - x[: len(x) - lag]) ** 2).sum(-1).mean())


def test_fft_equals_the_direct_sum_over_all_origins_far_from_the_origin_too() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((101, 7, 3)).cumsum(0) + 1e4
    m = msd(x, max_lag=100)
    assert np.allclose(m.msd, [direct(x, k) for k in range(101)], atol=1e-6)
    v = np.diff(x, axis=0)
    c = vacf(v, max_lag=99)
    assert np.allclose(c.vacf, [(v[k:] * v[: len(v) - k]).sum(-1).mean() for k in range(100)])


def test_brownian_motion_gives_its_diffusion_coefficient_within_the_error() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((500, 40, 20, 3)).cumsum(0) * np.sqrt(2 * 0.3)  # D = 0.3
    m = msd(x, max_lag=50)
    d = diffusion_coefficient(m, 1, 50)
    assert abs(d.value - 0.3) < 3 * d.error
    assert d.error < 0.01
    assert d.exponent == pytest.approx(1.0, abs=0.02)
    assert np.allclose(d.line(m.lag[1:]), m.msd[1:], rtol=0.05)
    assert np.abs((m.msd - 6 * 0.3 * m.lag)[1:] / m.error[1:]).max() < 4


def test_harmonic_oscillators_give_the_analytic_msd_and_vacf() -> None:
    """x = A cos(w t + phase) at kT = k = m = w = 1: MSD = 6 (1 - cos t), <v v> = 3 cos t."""
    rng = np.random.default_rng(2)
    dt = 0.05
    t = np.arange(1000)[:, None, None, None] * dt
    x0, v0 = rng.standard_normal((2, 1, 30, 30, 3))
    x, v = x0 * np.cos(t) + v0 * np.sin(t), v0 * np.cos(t) - x0 * np.sin(t)
    m, c = msd(x, max_lag=200), vacf(v, max_lag=200)
    assert np.abs(m.msd - 6 * (1 - np.cos(m.lag * dt))).max() < 0.4
    assert np.abs((c.vacf - 3 * np.cos(c.lag * dt)) / c.error).max() < 4


def test_errors_of_one_trajectory_come_from_stretches_and_are_nan_beyond_them() -> None:
    m = msd(np.random.default_rng(3).standard_normal((200, 5, 3)).cumsum(0), n_blocks=10)
    assert np.isfinite(m.error[:20]).all()
    assert np.isnan(m.error[20:]).all()
    assert np.isfinite(m.msd).all()


@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, 0.98])
def test_correlation_time_of_an_autoregressive_process(a: float) -> None:
    """rho(k) = a^k: tau = 1/2 + a / (1 - a)."""
    rng = np.random.default_rng(4)
    x = np.zeros((20_000, 20))
    for t in range(1, len(x)):
        x[t] = a * x[t - 1] + rng.standard_normal(20)
    assert autocorrelation_time(x[500:]) == pytest.approx(0.5 + a / (1 - a), rel=0.08)


def test_correlation_time_of_a_constant_is_that_of_noise_and_of_a_rotating_vector_counts_all_components() -> None:
    assert autocorrelation_time(np.ones(100)) == 0.5
    phi = np.random.default_rng(5).standard_normal((20_000, 1)).cumsum(0) * 0.2  # <e^{i dphi}> = exp(-0.02 k)
    unit = np.stack([np.cos(phi), np.sin(phi)], -1)
    a = np.exp(-0.02)
    assert autocorrelation_time(unit) == pytest.approx(0.5 + a / (1 - a), rel=0.25)


@pytest.mark.parametrize(
    ("shape", "lag", "word"), [((10, 3), None, "shape"), ((10, 2, 3), 10, "max_lag"), ((0, 2, 3), None, "empty")]
)
def test_bad_trajectories_are_refused(shape: tuple[int, ...], lag: int | None, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        msd(np.zeros(shape), max_lag=lag)


def test_a_window_outside_the_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        diffusion_coefficient(msd(np.zeros((20, 2, 3))), 5, 50)


def test_a_window_longer_than_the_blocks_is_refused_because_it_has_no_error() -> None:
    m = msd(np.random.default_rng(6).standard_normal((200, 5, 3)).cumsum(0), n_blocks=10)
    assert diffusion_coefficient(m, 1, 19).error > 0
    with pytest.raises(ValueError, match="up to 19 lags"):
        diffusion_coefficient(m, 1, 30)


def test_the_time_between_frames_scales_diffusion_and_the_range_but_not_the_intercept() -> None:
    m = msd(np.random.default_rng(7).standard_normal((300, 12, 5, 3)).cumsum(0), max_lag=20)
    a, b = diffusion_coefficient(m, 2, 20), diffusion_coefficient(m, 2, 20, dt=4.0)
    assert (b.value, b.error) == pytest.approx((a.value / 4, a.error / 4))
    assert (b.first, b.last, b.intercept) == pytest.approx((8.0, 80.0, a.intercept))


def test_weights_keep_the_noisy_end_of_the_curve_from_ruling_the_slope() -> None:
    """Of 200 repeats, the weighted slopes scatter less than unweighted ones, and as much as they say."""
    rng = np.random.default_rng(8)
    weighted, plain = [], []
    for _ in range(200):
        m = msd(rng.standard_normal((60, 10, 2, 3)).cumsum(0), max_lag=40)
        weighted.append(diffusion_coefficient(m, 1, 40))
        plain.append(np.polyfit(m.lag[1:], m.msd[1:], 1)[0] / 6)
    values = np.array([d.value for d in weighted])
    assert values.std() < 0.8 * np.std(plain)
    assert np.mean([d.error for d in weighted]) == pytest.approx(values.std(), rel=0.25)
    assert values.mean() == pytest.approx(0.5, abs=4 * values.std() / 200**0.5)


def test_free_langevin_particles_diffuse_by_einsteins_law_by_both_routes() -> None:
    """D = kT / (gamma m), <v(0).v(t)> = 3 kT/m exp(-gamma t)."""
    kT, mass, friction, dt = 0.025, 2.0, 0.05, 4.0
    system = System.single(torch.zeros(40, 3, dtype=torch.float64), masses=[mass] * 40).replicate(12)
    g = torch.Generator().manual_seed(1)
    start = rest(system, thermal_velocities(system, kT, g))
    run = simulate(start, Free(), Langevin(dt, kT, friction), 1200, every=1, generator=g)
    x, v = zip(*[(s.system.dense(), s.system.dense(s.velocities)) for s in run])
    exact = kT / (friction * mass)
    c = vacf(torch.stack(v), max_lag=60)
    assert np.abs((c.vacf - 3 * kT / mass * np.exp(-friction * dt * c.lag)) / c.error).max() < 4
    value, error = green_kubo(c, dt).at(50 * dt)
    slope = diffusion_coefficient(msd(torch.stack(x), max_lag=120), 30, 120, dt)
    for d, e in ((value, error), (slope.value, slope.error)):
        assert abs(d - exact) < 3 * e
        assert e < 0.02 * exact
    assert abs(slope.value - value) < 3 * (slope.error**2 + error**2) ** 0.5


def test_the_running_integral_of_an_exponential_is_known_with_the_error_of_the_blocks() -> None:
    t = np.arange(200) * 0.5
    heights = np.array([2.5, 3.5])
    blocks = heights[:, None] * np.exp(-t / 10)
    d = green_kubo(VACF(np.arange(200.0), blocks.mean(0), np.zeros(200), blocks), 0.5)
    assert np.allclose(d.value, 3 * 10 * (1 - np.exp(-t / 10)) / 3, rtol=1e-3)
    assert d.error[-1] == pytest.approx(0.5 * 10 / 3, rel=1e-3)
    with pytest.raises(ValueError, match="runs from 0"):
        d.at(1000.0)


def test_the_constant_of_the_finite_size_correction_is_that_of_the_simple_cubic_lattice() -> None:
    """xi is minus the Madelung constant of point charges in a neutralising background, here from its Ewald sum."""
    alpha, span = 2.0, np.arange(-6, 7)
    n2 = np.stack(np.meshgrid(span, span, span), -1).reshape(-1, 3)
    n2 = (n2**2).sum(1)[(n2**2).sum(1) > 0].astype(float)
    r, k2 = np.sqrt(n2), 4 * np.pi**2 * n2
    sums = (erfc(alpha * r) / r).sum() + (4 * np.pi * np.exp(-k2 / (4 * alpha**2)) / k2).sum()
    xi = -(sums - np.pi / alpha**2 - 2 * alpha / np.sqrt(np.pi))
    assert finite_size_correction(6 * np.pi, 1.0, 1.0) == pytest.approx(xi, rel=1e-6)


def test_the_finite_size_correction_of_water_has_the_size_it_has_in_si_units() -> None:
    """kT at 298 K, 0.896 mPa s, 18.6 A: 1.38e-23 x 298 x 2.837 / (6 pi 0.896e-3 x 18.6e-10) m^2/s."""
    expected = 1.380649e-23 * 298 * 2.837297 / (6 * np.pi * 0.896e-3 * 18.6e-10)
    viscosity = 0.896e-3 * units.kJ / 1e3 * 1e15 / 1e30  # J s/m^3
    assert viscosity == pytest.approx(0.896 * 6.2415, rel=1e-4)
    assert finite_size_correction(298 * units.kelvin, viscosity, 18.6) * 1e-5 == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="viscosity"):
        finite_size_correction(0.02, 0.0, 18.6)
