"""Angles between neighbours: lattices, independent particles and a direct count."""

import math

import numpy as np
import pytest
import torch

from mlmd.cell import face_centred_cubic
from mlmd.observables.adf import SmoothADF, adf, neighbour_angles
from mlmd.system import System


def degrees(system: System, r_max: float) -> dict[int, int]:
    """How often each angle occurs, per particle."""
    theta, _ = neighbour_angles(system, r_max)
    values, counts = np.unique(np.round(np.degrees(theta.numpy())).astype(int), return_counts=True)
    return {int(a): int(c) // len(system) for a, c in zip(values, counts, strict=True)}


def test_a_simple_cubic_lattice_has_twelve_right_and_three_straight_angles():
    sites = torch.cartesian_prod(*[torch.arange(4.0)] * 3)
    assert degrees(System.single(sites, cell=4.0), 1.2) == {90: 12, 180: 3}


def test_a_face_centred_lattice_has_the_angles_of_the_cuboctahedron():
    sites = face_centred_cubic(3, 9.0)
    assert degrees(System.single(sites, cell=9.0), 2.4) == {60: 24, 90: 12, 120: 24, 180: 6}


def test_a_diamond_lattice_has_tetrahedral_angles():
    sites = face_centred_cubic(2, 8.0).double()
    both = torch.cat([sites, sites + 1.0])
    theta, centre = neighbour_angles(System.single(both, cell=8.0), 1.9)
    assert torch.bincount(centre).tolist() == [6] * len(both)
    assert theta.numpy() == pytest.approx(math.acos(-1 / 3), abs=1e-12)


def test_it_is_the_direct_count_of_all_triplets():
    """Loops over i, j, k and arccos in numpy, in an oblique box."""
    cell = np.array([[6.0, 0, 0], [1.0, 6.0, 0], [0.5, -1.0, 6.0]])
    x = np.random.default_rng(0).random((3, 20, 3)) @ cell
    counts = np.zeros(36)
    for frame in x:
        for i in range(20):
            d = frame - frame[i]
            s = d @ np.linalg.inv(cell)
            shifts = np.array([[a, b, c] for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)])
            images = ((s - np.round(s))[:, None] + shifts).reshape(-1, 3) @ cell
            r = np.linalg.norm(images, axis=1)
            near = images[(r < 2.5) & (r > 0)]
            for j in range(len(near)):
                for k in range(j):
                    cosine = near[j] @ near[k] / np.linalg.norm(near[j]) / np.linalg.norm(near[k])
                    counts[int(np.arccos(np.clip(cosine, -1, 1)) / np.pi * 36)] += 1
    result = adf(torch.from_numpy(x), torch.from_numpy(cell), r_max=2.5, bins=36)
    assert result.count.tolist() == counts.tolist()
    assert (result.density * np.diff(result.edges)).sum() == pytest.approx(1)


def test_independent_particles_see_half_a_sine():
    x = torch.rand(60, 200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    result = adf(x, torch.eye(3) * 10, r_max=2.0, bins=12)
    exact = -np.diff(np.cos(result.edges)) / 2 / np.diff(result.edges)
    assert np.abs((result.density - exact) / result.error).max() < 4
    assert result.error.max() < 0.02


def test_smoothing_is_a_gaussian_of_one_bin_around_every_angle():
    """The right angles of three particles: exp(-(b - 1/2)^2 / 2) off the middle of 90 bins, normalised.

    Angles are taken from the middles of fine bins, 1/16 bin away at most: exp(-1/2) / 16 = 0.038 of the height."""
    corner = System.single(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), cell=10.0)
    smooth = SmoothADF(1.2, 90)
    p = smooth(corner)[0].numpy()
    x = smooth.grid.numpy() - np.pi / 2
    width = np.pi / 90
    exact = np.exp(-0.5 * (x / width) ** 2)
    exact /= exact.sum() * width
    assert np.abs(p - exact).max() < 0.04 * exact.max()
    assert p.sum() * width == pytest.approx(1)


def test_snapshots_are_counted_apart():
    x = torch.rand(4, 30, 3, generator=torch.Generator().manual_seed(1)) * 6
    smooth = SmoothADF(2.0, 20)
    one = System.single(x[0], cell=6.0)
    together = smooth(one.at(x))
    assert together.numpy() == pytest.approx(torch.cat([smooth(one.at(p)) for p in x]).numpy(), abs=1e-12)


def test_bad_input_is_refused():
    x = torch.rand(2, 5, 3)
    with pytest.raises(ValueError, match="cell is missing"):
        adf(x, r_max=0.4)
    with pytest.raises(ValueError, match="no particle has two neighbours"):
        adf(x * 100, torch.eye(3) * 100, r_max=0.01)
    with pytest.raises(ValueError, match="bins=0"):
        SmoothADF(0.4, 0)
