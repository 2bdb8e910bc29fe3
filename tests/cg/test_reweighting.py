"""Reweighting gives the averages of one potential from snapshots of another, and says when it no longer can."""

import math

import pytest
import torch

from mlmd.cg.reweighting import boltzmann_weights, effective_share, reweighted_mean, worn_out

GRID = torch.linspace(-8.0, 8.0, 4001, dtype=torch.float64)  # sums over it are integrals to rounding


def drawn(k: float, kT: float, n: int, seed: int = 0) -> torch.Tensor:
    """Positions of independent harmonic oscillators of spring constant k."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dtype=torch.float64, generator=generator) * (kT / k) ** 0.5


def test_oscillators_of_another_spring_constant_have_the_exact_mean_square():
    kT, k, new = 0.5, 1.0, 1.4
    x = drawn(k, kT, 400_000)
    w = boltzmann_weights(new * x**2 / 2, k * x**2 / 2, kT)
    error = math.sqrt(float((w.square() * (x**2 - kT / new) ** 2).sum()))  # of a weighted mean of independent snapshots
    assert error < 0.001
    assert float(reweighted_mean(x**2, w)) == pytest.approx(kT / new, abs=4 * error)


def test_oscillators_of_another_temperature_have_the_exact_mean_square():
    """A temperature T' is a potential times T / T'."""
    kT, colder = 0.5, 0.4
    x = drawn(1.0, kT, 400_000)
    u = x**2 / 2
    w = boltzmann_weights(u * kT / colder, u, kT)
    error = math.sqrt(float((w.square() * (x**2 - colder) ** 2).sum()))
    assert float(reweighted_mean(x**2, w)) == pytest.approx(colder, abs=4 * error)


def test_the_gradient_of_a_reweighted_mean_is_that_of_the_exact_average():
    """<x^2> = kT/k and <x^4> = 3 (kT/k)^2 in closed form; a uniform sample, so that means are integrals."""
    kT, k = 0.5, torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    w = boltzmann_weights(k * GRID**2 / 2, torch.zeros_like(GRID), kT)
    mean = reweighted_mean(torch.stack([GRID**2, GRID**4], 1), w)
    assert mean.tolist() == pytest.approx([kT / 1.3, 3 * (kT / 1.3) ** 2], rel=1e-10)
    gradients = [float(torch.autograd.grad(m, k, retain_graph=True)[0]) for m in mean]
    assert gradients == pytest.approx([-kT / 1.3**2, -6 * kT**2 / 1.3**3], rel=1e-10)


def test_the_gradient_from_snapshots_is_the_finite_difference_of_exact_averages_within_its_noise():
    kT, n, h = 0.5, 400_000, 1e-4
    x = drawn(1.0, kT, n, seed=1)
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    mean = reweighted_mean(x**2, boltzmann_weights(k * x**2 / 2, x**2 / 2, kT))
    (gradient,) = torch.autograd.grad(mean, k)
    exact = (kT / (1 + h) - kT / (1 - h)) / (2 * h)
    terms = -((x**2 - kT) ** 2) / (2 * kT)
    assert float(gradient) == pytest.approx(exact, abs=4 * float(terms.std()) / n**0.5)


def test_the_effective_share_of_a_gaussian_reweighting_is_the_closed_form():
    """A uniform shift of a Gaussian: n / n_eff = <w^2>/<w>^2 = exp(d^2 k / kT) for a well displaced by d."""
    kT, d = 1.0, 0.3
    density = torch.exp(-(GRID**2) / (2 * kT))
    ratio = torch.exp(-((GRID - d) ** 2 - GRID**2) / (2 * kT))
    expected = float((density @ ratio) ** 2 / ((density @ ratio**2) * density.sum()))
    assert expected == pytest.approx(math.exp(-(d**2)), rel=1e-9)
    x = drawn(1.0, kT, 400_000, seed=2)
    assert effective_share(boltzmann_weights((x - d) ** 2 / 2, x**2 / 2, kT)) == pytest.approx(expected, abs=0.002)


def test_equal_weights_count_fully_and_a_single_one_counts_as_one():
    assert effective_share(torch.full((7,), 1 / 7, dtype=torch.float64)) == pytest.approx(1.0)
    assert effective_share(torch.eye(5, dtype=torch.float64)[2]) == pytest.approx(1 / 5)


def test_the_guard_fires_where_the_closed_form_says():
    """exp(-d^2) passes 0.9 at d = 0.3246."""
    x = drawn(1.0, 1.0, 400_000, seed=3)
    near, far = (boltzmann_weights((x - d) ** 2 / 2, x**2 / 2, 1.0) for d in (0.31, 0.34))
    assert not worn_out(near) and worn_out(far)
    assert not worn_out(far, 0.8)


def test_a_constant_shift_of_the_energy_changes_nothing_however_large():
    x = drawn(1.0, 1.0, 100)
    w = boltzmann_weights(1.1 * x**2 / 2 + 1e6, x**2 / 2, 1.0)
    assert w.numpy() == pytest.approx(boltzmann_weights(1.1 * x**2 / 2, x**2 / 2, 1.0).numpy(), rel=1e-8)


def test_bad_input_is_refused():
    u = torch.zeros(3)
    with pytest.raises(ValueError, match="shape"):
        boltzmann_weights(u, torch.zeros(4), 1.0)
    with pytest.raises(ValueError, match="kT=0"):
        boltzmann_weights(u, u, 0)
    with pytest.raises(ValueError, match="not finite"):
        boltzmann_weights(torch.tensor([0.0, float("nan")]), torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="one weight per snapshot"):
        reweighted_mean(torch.zeros(4, 2), torch.ones(3) / 3)
    with pytest.raises(ValueError, match="least"):
        worn_out(torch.ones(3) / 3, 1.5)
