"""Block errors are what repeated experiments show."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmd.observables import block_labels, block_mean, ratio


def ar1(rng: np.random.Generator, a: float, shape: tuple[int, ...]) -> np.ndarray:
    """Autoregressive process of unit variance: rho(k) = a^k."""
    x = np.empty(shape)
    x[0] = rng.standard_normal(shape[1:])
    kick = rng.standard_normal(shape) * np.sqrt(1 - a * a)
    for t in range(1, shape[0]):
        x[t] = a * x[t - 1] + kick[t]
    return x


def test_one_trajectory_is_cut_in_time_and_an_ensemble_into_replicas() -> None:
    assert block_labels((7,), 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert block_labels((2, 3), 3).tolist() == [[0, 1, 2], [0, 1, 2]]
    assert block_labels((4, 2), 4).tolist() == [[0, 2], [0, 2], [1, 3], [1, 3]]


def test_error_of_a_correlated_mean_is_the_spread_of_repeated_means() -> None:
    rng = np.random.default_rng(0)
    a, n = 0.9, 4000
    runs = ar1(rng, a, (n, 200))
    true = runs.mean(0).std()
    assert true == pytest.approx(np.sqrt((1 + a) / (1 - a) / n), rel=0.15)  # analytic
    estimated = np.sqrt(np.mean([block_mean(runs[:, k])[1] ** 2 for k in range(200)]))
    assert estimated == pytest.approx(true, rel=0.15)
    _, across = block_mean(runs)  # all 200 as replicas of one experiment
    assert across == pytest.approx(true / np.sqrt(200), rel=0.25)


def test_the_ratio_error_is_that_of_the_mean_for_equal_blocks() -> None:
    top = np.array([1.0, 2.0, 4.0, 5.0])
    mean, error = ratio(top, np.ones(4))
    assert mean == pytest.approx(3.0)
    assert error == pytest.approx(top.std(ddof=1) / 2)


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40), st.floats(-10, 10), st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_mean_and_error_follow_shift_and_scale(values: list[float], shift: float, scale: float) -> None:
    mean, error = block_mean(np.array(values), 2)
    moved, moved_error = block_mean(scale * np.array(values) + shift, 2)
    assert moved == pytest.approx(scale * mean + shift, abs=1e-6)
    assert moved_error == pytest.approx(scale * error, abs=1e-6)


def test_weights_of_zero_remove_samples() -> None:
    x, w = np.array([1.0, 50.0, 2.0, 3.0, 50.0, 4.0]), np.array([1.0, 0, 1, 1, 0, 1])
    assert block_mean(x, 2, w)[0] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("x", "n_blocks", "word"),
    [
        (np.array([]), 10, "empty"),
        (np.array([1.0, np.nan]), 2, "not finite"),
        (np.ones(9), 1, "n_blocks"),
        (np.ones((2, 2, 2)), 2, "shape"),
    ],
)
def test_bad_samples_are_refused(x: np.ndarray, n_blocks: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        block_mean(x, n_blocks)
