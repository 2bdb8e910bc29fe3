"""Internal coordinates agree with mdtraj and with what symmetry demands."""

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmd.frames import bead_topology
from mlmd.observables import angles, dihedrals, distances, kabsch_rmsd, radius_of_gyration, superpose
from mlmd.observables.geometry import rotation_onto

N = 8


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(40, N, 3, dtype=torch.float64) * 2


def trajectory(x: torch.Tensor, edge: float | None = None) -> mdtraj.Trajectory:
    out = mdtraj.Trajectory(x.numpy() / 10, bead_topology(["B"] * x.shape[1], []))
    if edge is not None:
        out.unitcell_vectors = np.tile(np.eye(3) * edge / 10, (len(x), 1, 1)).astype(np.float32)
    return out


def turn(a: torch.Tensor, b: np.ndarray) -> float:
    """Largest difference of angles on the circle."""
    d = a.numpy() - b
    return float(np.abs(np.arctan2(np.sin(d), np.cos(d))).max())


@pytest.mark.parametrize("edge", [None, 6.0])
def test_distances_angles_and_dihedrals_are_those_of_mdtraj_with_its_sign(x: torch.Tensor, edge: float | None) -> None:
    box = None if edge is None else torch.eye(3, dtype=torch.float64) * edge
    t, periodic = trajectory(x, edge), edge is not None
    pairs, triples = [[0, 1], [3, 7]], [[0, 1, 2], [5, 2, 7]]
    quads = [[0, 1, 2, 3], [4, 2, 7, 1], [3, 2, 1, 0]]
    assert np.allclose(distances(x, pairs, box).numpy() / 10, mdtraj.compute_distances(t, pairs, periodic=periodic), atol=1e-5)
    assert turn(angles(x, triples, box), mdtraj.compute_angles(t, triples, periodic=periodic)) < 1e-3
    assert turn(dihedrals(x, quads, box), mdtraj.compute_dihedrals(t, quads, periodic=periodic)) < 1e-3


def test_dihedral_is_zero_for_cis_pi_for_trans_and_positive_clockwise() -> None:
    def bent(phi: float) -> torch.Tensor:
        return torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [np.cos(phi), np.sin(phi), 1]]], dtype=torch.float64)

    for phi in (0.0, 1.0, -2.0, 3.1):
        assert float(dihedrals(bent(phi), [[0, 1, 2, 3]])) == pytest.approx(phi, abs=1e-12)
    assert abs(float(dihedrals(bent(np.pi), [[0, 1, 2, 3]]))) == pytest.approx(np.pi)


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_internal_coordinates_ignore_rotation_and_shift_and_a_mirror_flips_only_dihedrals(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, 3, generator=g, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q
    q = q * torch.linalg.det(q).sign()
    y = x @ q + torch.randn(3, generator=g, dtype=torch.float64)
    mirrored = x * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    quad, triple = [[0, 1, 2, 3], [1, 2, 3, 4]], [[0, 1, 2]]
    assert torch.allclose(dihedrals(y, quad), dihedrals(x, quad), atol=1e-8)
    assert torch.allclose(dihedrals(mirrored, quad), -dihedrals(x, quad), atol=1e-8)
    assert torch.allclose(angles(mirrored, triple), angles(y, triple), atol=1e-8)
    assert torch.allclose(radius_of_gyration(y), radius_of_gyration(x))
    assert float(kabsch_rmsd(x, y).max()) < 1e-8
    assert float(kabsch_rmsd(x, mirrored).min()) > 1e-3  # a mirror image is another molecule


def test_rmsd_and_radius_of_gyration_are_those_of_mdtraj_and_mdanalysis(x: torch.Tensor) -> None:
    t = trajectory(x)
    assert np.allclose(kabsch_rmsd(x, x[:1]).numpy() / 10, mdtraj.rmsd(t, t, 0), atol=2e-4)
    assert np.allclose(radius_of_gyration(x).numpy() / 10, mdtraj.compute_rg(t), atol=1e-5)
    # with unequal masses mdtraj 1.11 still measures from the centroid; MDAnalysis measures from the centre of mass
    mda = pytest.importorskip("MDAnalysis")
    masses = torch.rand(N, dtype=torch.float64) + 0.5
    universe = mda.Universe.empty(N, trajectory=True)
    universe.add_TopologyAttr("masses", masses.numpy())
    universe.load_new(x.numpy())
    expected = [universe.atoms.radius_of_gyration() for _ in universe.trajectory]
    assert np.allclose(radius_of_gyration(x, masses).numpy(), expected, atol=1e-5)


def test_superposition_is_the_best_of_many_rotations(x: torch.Tensor) -> None:
    a, b = x[0], x[1]
    best = ((superpose(a, b) - b) ** 2).sum()
    for _ in range(200):
        q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
        q = q * torch.linalg.det(q).sign()
        tried = (a - a.mean(0)) @ q + b.mean(0)
        assert float(((tried - b) ** 2).sum()) >= float(best) - 1e-9


def test_nearest_images_are_taken_in_a_skewed_box() -> None:
    cell = torch.tensor([[10.0, 0, 0], [3, 9, 0], [-2, 1, 8]], dtype=torch.float64)
    x = torch.rand(5, 4, 3, dtype=torch.float64)
    moved = x.clone()
    moved[:, 1] += cell[0] - 2 * cell[2]
    assert torch.allclose(distances(moved, [[0, 1]], cell), distances(x, [[0, 1]]))
    assert torch.allclose(dihedrals(moved, [[0, 1, 2, 3]], cell), dihedrals(x, [[0, 1, 2, 3]]))


def test_geometry_can_be_differentiated(x: torch.Tensor) -> None:
    y = x[:2, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: (dihedrals(z, [[0, 1, 2, 3]]), angles(z, [[0, 1, 2]]), distances(z, [[0, 3]])), y)


def test_replicas_keep_their_axes(x: torch.Tensor) -> None:
    y = x.reshape(4, 10, N, 3)
    assert distances(y, [[0, 1], [1, 2]]).shape == (4, 10, 2)
    assert dihedrals(y, torch.zeros(0, 4, dtype=torch.long)).shape == (4, 10, 0)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x: distances(x, [[0, N]]), "pairs"),
        (lambda x: angles(x, [[0, 1]]), "triples"),
        (lambda x: dihedrals(x[..., 0], [[0, 1, 2, 3]]), "x has shape"),
        (lambda x: radius_of_gyration(x, torch.zeros(N)), "masses"),
        (lambda x: kabsch_rmsd(x, x[:, :3]), "same particles"),
    ],
)
def test_wrong_indices_and_shapes_are_named(x: torch.Tensor, call, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call(x)


def test_the_rotation_between_two_copies_is_found() -> None:
    torch.manual_seed(3)
    x = torch.randn(5, 7, 3).double()
    q, _ = torch.linalg.qr(torch.randn(5, 3, 3).double())
    q = q * torch.linalg.det(q)[:, None, None]
    turned = torch.einsum("fij,fnj->fni", q, x)
    assert torch.allclose(rotation_onto(x, turned), q, atol=1e-10)
