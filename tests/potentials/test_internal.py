"""Internal coordinates against mdtraj, finite differences and what symmetry demands."""

import mdtraj
import numpy as np
import pytest
import torch

from mlmd.potentials.bonded import Bonded, CosineAngles, HarmonicAngles
from mlmd.potentials.internal import InternalCoordinates
from mlmd.system import System

PAIRS = torch.combinations(torch.arange(5))
TRIPLES = torch.tensor([[0, 1, 2], [1, 2, 3], [3, 2, 4]])
QUADS = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [2, 1, 3, 4]])


@pytest.fixture
def molecules():
    return torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def coordinates():
    return InternalCoordinates(5, PAIRS, TRIPLES, QUADS)


def test_values_and_signs_are_those_of_mdtraj(molecules, coordinates):
    frames = mdtraj.Trajectory(molecules.numpy(), None)
    r, theta, phi = coordinates(molecules.reshape(-1, 3))
    assert np.allclose(r.T, mdtraj.compute_distances(frames, PAIRS.numpy(), periodic=False), atol=1e-5)
    assert np.allclose(theta.T, mdtraj.compute_angles(frames, TRIPLES.numpy(), periodic=False), atol=1e-4)
    assert np.allclose(phi.T, mdtraj.compute_dihedrals(frames, QUADS.numpy(), periodic=False), atol=1e-4)


def test_both_ways_to_compute_them_agree(molecules, coordinates):
    flat = molecules.reshape(-1, 3)
    geometry = coordinates.geometry(flat)
    for a, b in zip(coordinates(flat), (geometry.distances, geometry.angles, geometry.dihedrals)):
        assert torch.allclose(a, b, atol=1e-6)


def test_closed_form_gradients_are_the_derivatives(molecules, coordinates):
    flat = molecules.reshape(-1, 3).requires_grad_()
    slopes = tuple(
        torch.randn(v.shape, generator=torch.Generator().manual_seed(k)).double() for k, v in enumerate(coordinates(flat))
    )
    total = sum((s * v).sum() for s, v in zip(slopes, coordinates(flat)))
    (expected,) = torch.autograd.grad(total, flat)
    assert torch.allclose(coordinates.pull_back(coordinates.geometry(flat), slopes), expected, atol=1e-6)


def test_reflection_turns_the_sign_of_dihedrals_and_nothing_else(molecules, coordinates):
    mirror = molecules * torch.tensor([1.0, 1.0, -1.0])
    (r, theta, phi), (r2, theta2, phi2) = coordinates(molecules.reshape(-1, 3)), coordinates(mirror.reshape(-1, 3))
    assert torch.allclose(r, r2)
    assert torch.allclose(theta, theta2)
    assert torch.allclose(phi, -phi2)


def test_a_straight_angle_has_finite_forces_and_a_smooth_law_none():
    line = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1.0, 0, 0]]).double()
    coordinates = InternalCoordinates(3, torch.combinations(torch.arange(3)), torch.tensor([[0, 1, 2]]))
    for law, still in (
        (CosineAngles([0], torch.ones(1), -torch.ones(1)), True),
        (HarmonicAngles([0], torch.ones(1), torch.ones(1)), False),
    ):
        with torch.no_grad():
            _, forces = Bonded(coordinates, [law]).double().analytic(System.single(line))
        assert bool(torch.isfinite(forces).all())
        assert not still or float(forces.abs().max()) < 1e-6


def test_an_index_outside_the_molecule_is_named():
    with pytest.raises(ValueError, match="bead 5"):
        InternalCoordinates(5, torch.tensor([[0, 5]]))


def test_a_system_that_is_no_whole_number_of_molecules_is_refused(coordinates):
    with pytest.raises(ValueError, match="no multiple"):
        Bonded(coordinates, [])(System.single(torch.zeros(7, 3)))
