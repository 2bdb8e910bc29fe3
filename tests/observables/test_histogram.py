"""Densities integrate to one, agree with analytic laws within their error, and know what fell outside."""

import numpy as np
import pytest
import torch
from scipy import stats

from mlmd.observables import Coordinate, density, overlap


def chi(values: np.ndarray, expected: np.ndarray, error: np.ndarray) -> float:
    """Root mean square deviation in standard errors."""
    return float(np.sqrt(np.mean(((values - expected) / error) ** 2)))


def test_gaussian_samples_give_the_gaussian_density_within_the_block_errors() -> None:
    x = np.random.default_rng(0).normal(1.5, 0.1, (2000, 30))
    d = density(x, bins=40, limits=(1.3, 1.7))
    p = np.diff(stats.norm(1.5, 0.1).cdf(d.edges)) / d.widths
    assert chi(d.density, p, d.error) == pytest.approx(1.0, abs=0.35)
    assert d.outside == pytest.approx(2 * stats.norm.sf(2.0), abs=0.002)
    assert (d.density * d.widths).sum() + d.outside == pytest.approx(1.0)


def test_von_mises_samples_give_their_density_wherever_the_angles_were_wrapped() -> None:
    x = np.random.default_rng(1).vonmises(2.8, 2.0, (1000, 20))
    d = density(torch.from_numpy(x + 4 * np.pi), bins=36, periodic=True)
    c = d.centers
    assert chi(d.density, stats.vonmises(2.0, loc=2.8).pdf(c), d.error) < 1.5
    assert (d.density * d.widths).sum() == pytest.approx(1.0)


def test_reweighting_turns_one_gaussian_into_another() -> None:
    x = np.random.default_rng(2).normal(0, 1, (5000, 10))
    d = density(x, bins=30, limits=(-2, 3), weights=np.exp(0.5 * x))
    p = np.diff(stats.norm(0.5, 1).cdf(d.edges)) / d.widths
    assert chi(d.density, p, d.error) < 1.5


def test_overlap_is_one_for_equal_zero_for_disjoint_and_analytic_for_shifted_gaussians() -> None:
    rng = np.random.default_rng(3)
    a, b = (density(rng.normal(m, 1, 200_000), bins=100, limits=(-6, 7)) for m in (0.0, 1.0))
    far = density(rng.normal(6.5, 0.01, 100), bins=100, limits=(-6, 7))
    near = density(rng.normal(-5.5, 0.01, 100), bins=100, limits=(-6, 7))
    assert overlap(a, a) == pytest.approx(1.0)
    assert overlap(near, far) == 0.0
    assert overlap(a, b) == pytest.approx(2 * stats.norm.cdf(-0.5), abs=0.01)
    with pytest.raises(ValueError, match="edges"):
        overlap(a, density([0.0, 1.0]))


def test_a_value_on_the_last_edge_counts_and_constant_samples_still_have_a_bin() -> None:
    assert density([0.0, 1.0, 2.0], bins=2, limits=(0, 2), n_blocks=2).outside == 0.0
    assert density(np.ones(5)).density.max() > 0


def test_limits_must_rise() -> None:
    with pytest.raises(ValueError, match="limits"):
        density([1.0, 2.0], limits=(2, 1))
    with pytest.raises(ValueError, match="bins"):
        density([1.0, 2.0], bins=0)


def test_a_coordinate_needs_the_right_number_of_particles() -> None:
    x = torch.randn(3, 2, 5, 3)
    assert Coordinate("dihedral", (0, 1, 2, 3))(x).shape == (3, 2)
    assert Coordinate("rg")(x).shape == (3, 2)
    with pytest.raises(ValueError, match="particles"):
        Coordinate("angle", (0, 1))
    with pytest.raises(ValueError, match="kind"):
        Coordinate("torsion", (0, 1, 2, 3))  # type: ignore[arg-type]
