import numpy as np
import pytest
import torch

from mlmd.cg.inverse_monte_carlo import Covariance, InverseMonteCarlo
from mlmd.cg.pair_relative_entropy import PairRelativeEntropy, bin_means
from tests.cg.liquids import DiluteGas, gas_target


def test_the_prior_is_the_most_probable_answer_of_bayes():
    """Normal prior of width w, data C x + noise of covariance C / F: the maximum of the posterior, by its own normal equations."""
    random = np.random.default_rng(1)
    mixed = random.normal(size=(4, 4))
    C, d, F, w = mixed @ mixed.T + 0.1 * np.eye(4), random.normal(size=4), 50, 0.3
    precision = C @ np.linalg.inv(C / F) @ C + np.eye(4) / w**2
    expected = np.linalg.solve(precision, C @ np.linalg.inv(C / F) @ d)
    np.testing.assert_allclose(
        np.linalg.solve(Covariance(shrink=0.0, width=w).regularised(C, np.eye(4), F), d), expected, rtol=1e-8
    )


def test_shrinking_makes_the_covariance_of_a_short_run_more_like_the_true_one():
    """Normal numbers of known covariance: the solution from few snapshots is nearer to the true one in every one of 20 tries."""
    random = np.random.default_rng(2)
    k, snapshots = 30, 60
    lags = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    covariance = 100.0 * 0.5**lags
    truth = np.sin(np.arange(k))
    for _ in range(20):
        x = random.multivariate_normal(np.zeros(k), covariance, snapshots)
        sampled = np.cov(x.T)
        plain, shrunk = (
            np.linalg.solve(
                Covariance(shrink=s, width=1e6).regularised(sampled, np.diag(np.diag(covariance)), snapshots), covariance @ truth
            )
            for s in (0.0, None)
        )
        assert np.linalg.norm(shrunk - truth) < np.linalg.norm(plain - truth)


def test_covariances_of_several_iterations_are_averaged_as_correlations():
    """The same correlations at other numbers of pairs: the average is exact."""
    random = np.random.default_rng(3)
    mixed = random.normal(size=(4, 4))
    correlation, pooled = mixed @ mixed.T, Covariance(memory=2, shrink=0.0, width=1e6)
    for numbers in (np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 0.5, 3.0, 7.0])):
        scale = np.outer(numbers, numbers) ** 0.5
        found = pooled.regularised(correlation * scale, np.diag(numbers), 100)
        np.testing.assert_allclose(found, correlation * scale, rtol=1e-9)


@pytest.mark.parametrize("method", [InverseMonteCarlo(1.0), PairRelativeEntropy(1.0, step=1.0)], ids=["bins", "splines"])
def test_one_step_undoes_a_small_error_of_a_dilute_gas(method):
    target, truth = gas_target()
    gas = DiluteGas(target, snapshots=2000)
    wave = 0.05 * torch.sin(3 * gas.basis.knots[:-1])[None] * (1 - gas.basis.knots[:-1] / gas.basis.cutoff)
    after = method(gas.sample(truth + wave), target, gas.basis)
    visible = gas.g(truth)[0, 7:-3] > 0.5
    assert float((after - truth)[0, visible].abs().max()) < 0.2 * float(wave[0, visible].abs().max())


def test_the_mean_of_a_function_in_a_bin_is_its_integral_over_the_shell():
    target, _ = gas_target()
    basis = DiluteGas(target).basis
    means = bin_means(target, basis)
    low, high = target.edges[10:12]
    r = torch.linspace(low, high, 20001, dtype=torch.float64)
    fine = basis.functions(r)[0]
    exact = torch.trapezoid(fine * r[:, None] ** 2, r, dim=0) * 3 / (high**3 - low**3)
    np.testing.assert_allclose(means[10], exact.numpy(), atol=1e-4)  # middles of 50 parts: h^2 f'' / 24 is 5e-5


@pytest.mark.parametrize("changes", [{"kT": -1.0}, {"step": 0.0}, {"largest": 0.0}])
@pytest.mark.parametrize("method", [InverseMonteCarlo, PairRelativeEntropy])
def test_arguments_that_make_no_sense_are_refused(method, changes):
    with pytest.raises(ValueError, match="must be positive"):
        method(**({"kT": 1.0} | changes))


@pytest.mark.parametrize("changes", [{"memory": 0}, {"shrink": 1.5}, {"width": 0.0}])
def test_a_covariance_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValueError, match="memory must be at least 1"):
        Covariance(**changes)


def test_a_g_that_meets_its_target_nowhere_is_refused():
    target, truth = gas_target()
    gas = DiluteGas(target)
    sample = gas.sample(truth)
    sample.counts[:] = 0.0
    with pytest.raises(ValueError, match="overlap nowhere"):
        InverseMonteCarlo(1.0)(sample, target, gas.basis)
