"""Pivot moves sample the exact torsional distribution across barriers that dynamics does not cross."""

import numpy as np
import pytest
import torch

from mlmd import units
from mlmd.md.pivot import Pivots, pivot, rotatable
from mlmd.potentials.bonded import Bonded, FourierDihedrals, HarmonicAngles, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.system import System

KT = 300 * units.kelvin
A, B = [0.02, 0.06, 0.1], [0.05, 0.0, 0.0]  # barriers of about 8 kT between wells of unequal depth


def butane():
    coordinates = InternalCoordinates(
        4, torch.combinations(torch.arange(4)), torch.tensor([[0, 1, 2], [1, 2, 3]]), torch.tensor([[0, 1, 2, 3]])
    )
    stiff = [
        HarmonicBonds([0, 3, 5], torch.full((3,), 20.0), torch.full((3,), 1.5)),
        HarmonicAngles([0, 1], torch.full((2,), 3.0), torch.full((2,), 1.9)),
    ]
    return Bonded(coordinates, [*stiff, FourierDihedrals([0], torch.tensor([A]), torch.tensor([B]))])


def start(replicas):
    x = torch.tensor([[0.0, 1.4, 0.5], [0, 0, 0], [1.5, 0, 0], [2.0, 1.4, 0]])
    return System.single(x).replicate(replicas)


def test_the_dihedral_follows_its_boltzmann_distribution_exactly():
    potential, pivots, g = butane(), rotatable(4, [(0, 1), (1, 2), (2, 3)]), torch.Generator().manual_seed(0)
    system, seen = start(2000), []
    for k in range(150):
        system, _ = pivot(system, potential, pivots, KT, g)
        if k >= 100 and k % 10 == 0:
            seen.append(potential.coordinates(system.positions)[2][0])
    counts, _ = np.histogram(torch.cat(seen).numpy(), bins=12, range=(-np.pi, np.pi))
    phi = np.linspace(-np.pi, np.pi, 12 * 200, endpoint=False) + np.pi / (12 * 200)
    n = np.arange(1, 4)[:, None]
    weight = np.exp(-(np.array(A) @ np.cos(n * phi) + np.array(B) @ np.sin(n * phi)) / KT).reshape(12, -1).sum(1)
    expected = weight / weight.sum()
    assert counts / counts.sum() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 2000))


def test_bonds_and_angles_are_not_changed_by_a_rotation():
    potential, pivots = butane(), rotatable(4, [(0, 1), (1, 2), (2, 3)])
    before = start(50)
    after, accepted = pivot(before, potential, pivots, 1e6, torch.Generator().manual_seed(1))
    assert bool(accepted.all())
    (r0, t0, p0), (r1, t1, p1) = potential.coordinates(before.positions), potential.coordinates(after.positions)
    bonded = [0, 3, 5]
    assert torch.allclose(r0[bonded], r1[bonded], atol=1e-5)
    assert torch.allclose(t0, t1, atol=1e-4)
    assert float((p0 - p1).abs().max()) > 1.0


def test_rings_and_ends_do_not_turn():
    ring = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)]
    assert rotatable(5, ring).axes.tolist() == [[2, 3]]
    assert rotatable(5, ring).moving.tolist() == [[False, False, False, True, True]]
    assert len(rotatable(3, [(0, 1), (1, 2)])) == 0


def test_a_molecule_without_rotatable_bonds_is_refused():
    none = Pivots(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="no rotatable bond"):
        pivot(start(1), butane(), none, KT)
