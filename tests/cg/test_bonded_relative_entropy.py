"""Relative entropy for all bonded terms of a molecule at once, also where bonds and angles are correlated."""

import numpy as np
import pytest
import torch

from mlmd.cg.bonded_relative_entropy import BondedRelativeEntropy, moments
from mlmd.cg.liquid_bonded import BondedTarget, alike_terms, features
from mlmd.frames import Frames, bead_topology
from tests.cg.chains import KT, bond_energy, chain, cosine_energy, drawn

BONDS = ((0, 1), (1, 2))
COUNT = 16_000


def trimers(random, bend):
    """(COUNT, 3, 3) with the energy of bonds and cosines, and bend (r1 + r2 - 3) c that ties them together: weighted by resampling."""
    r = drawn(bond_energy, 0.7, 2.4, (4 * COUNT, 2), random, np.square)
    c = drawn(cosine_energy, -1.0, 1.0, (4 * COUNT, 1), random)
    weight = np.exp(-bend * (r.sum(1) - 3.0) * c[:, 0] / KT)
    chosen = random.choice(4 * COUNT, COUNT, p=weight / weight.sum())
    return chain(r[chosen], c[chosen], np.zeros((COUNT, 0)))


def frames_of(x):
    return Frames(x.reshape(80, -1, 3), bead_topology(["A", "B", "C"], list(BONDS), COUNT // 80), kT=KT, types=torch.zeros(3 * COUNT // 80, dtype=torch.long))  # fmt: skip


def sampled(target, coefficients, random):
    """Trimers of a potential of bonds, cosine and distance over two bonds, by resampling uniform bonds and cosines."""
    r, c = random.uniform(0.7, 2.4, (12 * COUNT, 2)), random.uniform(-1.0, 1.0, (12 * COUNT, 1))
    x = chain(r, c, np.zeros((12 * COUNT, 0)))
    energy = (features(target, x) @ torch.cat(coefficients)).numpy()
    weight = np.prod(r**2, 1) * np.exp(-(energy - energy.min()) / KT)
    return x[torch.from_numpy(random.choice(12 * COUNT, COUNT, p=weight / weight.sum()))]


@pytest.fixture(scope="module")
def tied():
    """A reference whose bonds are longer where the angle is open."""
    return frames_of(trimers(np.random.default_rng(0), bend=6.0))


def correlation(x):
    """Of the mean bond length with the cosine."""
    u, v = x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]
    c = (u * v).sum(-1) / u.norm(dim=-1) / v.norm(dim=-1)
    return float(np.corrcoef((u.norm(dim=-1) + v.norm(dim=-1)).numpy(), c.numpy())[0, 1])


def test_distances_over_several_bonds_are_put_together_by_the_types_between():
    _, terms = alike_terms(5, [(k, k + 1) for k in range(4)], [0, 1, 1, 1, 0], reach=4)
    found = {t.name: len(t.rows) for t in terms if t.kind == "distances"}
    assert found == {"distances 0-1-1": 2, "distances 1-1-1": 1, "distances 0-1-1-1": 2, "distances 0-1-1-1-0": 1}


def test_a_reach_below_a_bond_is_refused(tied):
    with pytest.raises(ValueError, match="reach=0"):
        BondedTarget.of(tied, reach=0)


def test_features_times_coefficients_are_the_energy_of_the_potential(tied):
    target = BondedTarget.of(tied, reach=2)
    coefficients = target.inversion(KT)
    x = tied.positions[:1]
    energy = target.bonded(coefficients).double().energy(target.coordinates(x.reshape(-1, 3)))
    torch.testing.assert_close(features(target, x) @ torch.cat(coefficients), energy.detach(), rtol=1e-6, atol=1e-6)


def test_mean_and_covariance_in_parts_are_those_of_the_whole(tied):
    target = BondedTarget.of(tied, reach=2)
    b = features(target, tied.positions)
    mean, covariance = moments(target, tied.positions)
    torch.testing.assert_close(mean, b.mean(0))
    torch.testing.assert_close(covariance, torch.cov(b.T, correction=0), rtol=1e-6, atol=1e-9)


def test_correlated_bonds_and_angles_are_found_with_the_distance_over_them_and_not_without(tied):
    """The end-to-end distance of a trimer: its own marginal is matched only if it is a term."""
    apart = {}
    for reach in (1, 2):
        target = BondedTarget.of(tied, reach=reach)
        method, random = BondedRelativeEntropy(target, tied.positions, KT), np.random.default_rng(1)
        coefficients = target.inversion(KT)
        for _ in range(3):
            coefficients = method(coefficients, sampled(target, coefficients, random))
        x = sampled(target, coefficients, random)
        assert (
            target.overlaps(target.measured(x.reshape(80, -1, 3))) > 0.94
        ).all()  # counting noise of both on 48 bins leaves 0.97 of equal densities
        apart[reach] = correlation(x) - correlation(tied.positions.reshape(-1, 3, 3))
    assert abs(apart[2]) < 0.05 and abs(apart[1]) > 0.15


def test_steps_and_temperatures_without_sense_are_refused(tied):
    target = BondedTarget.of(tied)
    with pytest.raises(ValueError, match="step=2"):
        BondedRelativeEntropy(target, tied.positions, KT, step=2)
