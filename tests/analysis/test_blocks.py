"""The blocking curve and the statistical inefficiency know the correlation of a series."""

import numpy as np
import pytest

from mlmd.analysis import block_average, flyvbjerg_petersen, statistical_inefficiency


def ar1(a: float, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros(n)
    for t in range(1, n):
        x[t] = a * x[t - 1] + rng.standard_normal()
    return x * np.sqrt(1 - a * a)


@pytest.mark.parametrize("a", [0.0, 0.8])
def test_three_estimates_of_the_error_of_a_mean_agree_with_theory(a: float) -> None:
    n = 2**16
    x = ar1(a, n)
    theory = np.sqrt((1 + a) / (1 - a) / n)
    assert block_average(x, 30)[1] == pytest.approx(theory, rel=0.35)
    assert flyvbjerg_petersen(x).plateau == pytest.approx(theory, rel=0.2)
    assert np.sqrt(x.var() * statistical_inefficiency(x) / n) == pytest.approx(theory, rel=0.1)


def test_blocking_curve_starts_at_the_naive_error_and_rises_for_correlated_samples() -> None:
    x = ar1(0.95, 2**14)
    curve = flyvbjerg_petersen(x)
    assert curve.error[0] == pytest.approx(x.std() / np.sqrt(len(x) - 1))
    assert curve.size.tolist() == [2.0**k for k in range(14)]
    assert curve.plateau > 4 * curve.error[0]


def test_statistical_inefficiency_is_never_below_one() -> None:
    assert statistical_inefficiency(np.tile([1.0, -1.0], 500)) == 1.0


def test_a_blocking_curve_needs_one_series() -> None:
    with pytest.raises(ValueError, match="series"):
        flyvbjerg_petersen(np.zeros((10, 3)))
