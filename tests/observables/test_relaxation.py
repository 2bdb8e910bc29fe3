"""Relaxation functions and times agree with rotational diffusion, autoregressive processes and direct sums."""

import numpy as np
import pytest
from scipy.special import gamma

from mlmd.observables import Relaxation, fluctuation, orientational, relaxation_time, vector_correlation

ANGLE = 0.3  # of one turn


def turning(frames: int, replicas: int, n: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (T, R, N, 3) that turn by ANGLE about a random perpendicular axis in every frame.

    An isotropic walk on the sphere: <P_l(u(0).u(k))> = P_l(cos ANGLE)^k exactly, for any angle.
    """
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((replicas, n, 3))
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    out = []
    for _ in range(frames):
        out.append(u)
        axis = np.cross(u, rng.standard_normal(u.shape))
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        u = u * np.cos(ANGLE) + np.cross(axis, u) * np.sin(ANGLE)
    return np.stack(out)


STEP = {1: np.cos(ANGLE), 2: 1.5 * np.cos(ANGLE) ** 2 - 0.5}


@pytest.mark.parametrize("order", [1, 2])
def test_both_orders_equal_the_direct_sum_of_legendre_polynomials(order: int) -> None:
    u = 2.7 * turning(40, 1, 6)[:, 0]
    c = orientational(u, order, max_lag=39)
    e = u / 2.7
    for k in (0, 1, 7, 39):
        cos = (e[k:] * e[: len(e) - k]).sum(-1)
        assert c.c[k] == pytest.approx(float((cos if order == 1 else 1.5 * cos**2 - 0.5).mean()), abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_a_rotational_walk_relaxes_by_its_eigenvalues_and_the_time_has_an_honest_error(order: int) -> None:
    c = orientational(turning(600, 12, 20), order, max_lag=120)
    k = np.arange(121)
    assert c.c[1] == pytest.approx(STEP[order])  # every single step turns by the same angle
    assert np.abs((c.c - STEP[order] ** k)[2:] / c.error[2:]).max() < 4.5
    tau = relaxation_time(c, dt=5.0)
    q = STEP[order]
    exact = 5.0 * (0.5 + q / (1 - q))  # trapezoidal sum of q^k
    assert abs(tau.value - exact) < 3 * tau.error
    assert tau.error < 0.06 * exact
    assert tau.resolved
    assert tau.beta == pytest.approx(1.0, abs=0.1)


def test_slow_turning_is_rotational_diffusion_with_times_in_the_ratio_of_three() -> None:
    """tau_l = 1/(l (l+1) D), D = ANGLE^2 / 4 per frame, to the order ANGLE^2."""
    u = turning(800, 10, 30, seed=3)
    one, two = (relaxation_time(orientational(u, order, max_lag=150), beta=1.0) for order in (1, 2))
    for tau, order in ((one, 1), (two, 2)):
        assert tau.value == pytest.approx(4 / (order * (order + 1) * ANGLE**2), abs=3 * tau.error + 0.5)
    assert one.value / two.value == pytest.approx(3.0, abs=0.25)


def test_the_integral_of_a_stretched_exponential_is_complete_though_the_data_end_early() -> None:
    """tau Gamma(1/beta)/beta; a tenth of C is left where the data are cut."""
    t = np.arange(400.0)
    for beta in (0.5, 0.7, 1.0):
        c = np.exp(-((t / 40.0) ** beta))
        tau = relaxation_time(Relaxation(t, c, np.zeros_like(t), np.stack([c, c])), 2.0)
        assert tau.value == pytest.approx(80.0 / beta * gamma(1 / beta), rel=0.01)
        assert 0.02 < tau.tail / tau.value < 0.6
        assert (tau.beta, tau.scale) == pytest.approx((beta, 80.0), rel=1e-3)
        assert tau.error == pytest.approx(0.0, abs=1e-6 * tau.value)


def test_the_error_of_the_time_is_the_scatter_of_independent_repeats() -> None:
    times = [relaxation_time(orientational(turning(250, 10, 2, seed=s), 2, max_lag=40), beta=1.0) for s in range(20)]
    scatter = np.std([x.value for x in times], ddof=1)
    assert np.sqrt(np.mean([x.error**2 for x in times])) == pytest.approx(scatter, rel=0.4)


def test_numbers_and_vectors_of_autoregressive_processes_decay_as_they_must() -> None:
    rng, a = np.random.default_rng(4), 0.9
    x = np.zeros((3000, 40, 3))
    for t in range(1, len(x)):
        x[t] = a * x[t - 1] + rng.standard_normal((40, 3))
    for c in (vector_correlation(x[100:], max_lag=30), fluctuation(5.0 + x[100:, :, 0], max_lag=30)):
        assert np.abs((c.c - a ** np.arange(31))[1:] / c.error[1:]).max() < 4.5
        tau = relaxation_time(c, beta=1.0)
        assert abs(tau.value - (0.5 + a / (1 - a))) < 3 * tau.error


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: orientational(np.zeros((9, 2, 3)), 1), "length zero"),
        (lambda: orientational(np.ones((9, 2, 3)), 3), "order"),
        (lambda: vector_correlation(np.zeros((9, 2, 3))), "zero or constant"),
        (lambda: fluctuation(np.full((50, 3), 0.1)), "zero or constant"),
        (lambda: fluctuation(np.ones((5, 3, 3))), "shape"),
        (lambda: relaxation_time(orientational(np.ones((90, 2, 3)), 1)), "still 1.00"),
        (lambda: relaxation_time(fluctuation(np.random.default_rng(0).standard_normal((90, 5)))), "more often"),
        (lambda: relaxation_time(fluctuation(np.random.default_rng(0).standard_normal((90, 5))), until=2.0), "until"),
    ],
)
def test_what_does_not_relax_is_refused(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()  # type: ignore[operator]
