"""Internal coordinates and back."""

from __future__ import annotations

import math

import pytest
import torch

from mlmd import datasets
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.zmatrix import directions, measure, place, zmatrix
from mlmd.cg import mapping
from mlmd.observables.geometry import dihedrals


@pytest.fixture(scope="module")
def frames():
    return datasets.load("alanine-dipeptide")[:200]


@pytest.mark.parametrize("beads", [3, 5, 8, 12])
def test_measured_coordinates_place_every_atom_where_it_was(frames, beads):
    molecule = Molecule.of(frames, mapping.sequence(frames, beads))
    x = frames.positions.double()
    X = molecule.beads(x)
    z = zmatrix(molecule, X)
    c = measure(x, X, z, molecule.owner)
    assert torch.allclose(molecule.onto(place(X, z, c[..., 0], directions(c[..., 1], c[..., 2])), X), x, atol=1e-6)


def test_distances_within_a_bead_are_bond_lengths(frames):
    molecule = Molecule.of(frames, mapping.sequence(frames, 5))
    x = frames.positions.double()
    z = zmatrix(molecule, molecule.beads(x))
    c = measure(x, molecule.beads(x), z, molecule.owner)
    bonded = {tuple(sorted(b)) for b in molecule.bonds}
    for column, (atom, parent) in enumerate(
        (int(a), int(p)) for level in z.levels for a, p in zip(level.atoms, level.parents, strict=True)
    ):
        if tuple(sorted((atom, parent))) in bonded:
            assert torch.allclose(c[:, column, 0], (x[:, atom] - x[:, parent]).norm(dim=-1))


def test_every_atom_is_placed_once(frames):
    molecule = Molecule.of(frames, mapping.sequence(frames, 4))
    z = zmatrix(molecule, molecule.beads(frames.positions))
    assert sorted(z.atoms.tolist() + z.roots.tolist()) == list(range(22))


@pytest.mark.parametrize("tau", [0.0, 1.0, math.pi, -2.0])
def test_dihedral_of_a_placed_atom_is_that_of_the_geometry(tau):
    """Zero is cis, and the sign is that of the usual dihedral."""
    from mlmd.backmap.zmatrix import _frame

    p, g, r = torch.randn(3, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, m, n = _frame(p, g, r)
    theta = 1.9
    x = p + 1.5 * (math.cos(theta) * u + math.sin(theta) * (math.cos(tau) * m + math.sin(tau) * n))
    chain = torch.stack([x, p, g, r], 1)
    found = float(dihedrals(chain, torch.tensor([[0, 1, 2, 3]])))
    assert math.cos(found - tau) == pytest.approx(1.0, abs=1e-9)


def test_two_beads_are_refused(frames):
    molecule = Molecule.of(frames, mapping.sequence(frames, 2))
    with pytest.raises(ValueError, match="at least three"):
        zmatrix(molecule, molecule.beads(frames.positions))
