"""Mean square displacements and correlation functions agree with analytic motion and with the direct sum."""

import numpy as np
import pytest

from mlmd.observables import autocorrelation_time, diffusion_coefficient, msd, vacf


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
    d, error = diffusion_coefficient(m, 1, 50)
    assert abs(d - 0.3) < 3 * error
    assert error < 0.01
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
