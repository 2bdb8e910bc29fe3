"""Layers say what is wrong with them, and superposition moves without bending or mirroring."""

import mdtraj
import numpy as np
import pytest
from mlmd_widgets import layers, theme
from scipy.spatial.transform import Rotation

from mlmd.frames import bead_topology


def _trajectory(n_frames: int = 5, n: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_frames, n, 3)) * 2


def test_superposition_undoes_any_turn_and_shift():
    shape = _trajectory(1)[0]
    turned = np.stack([shape @ r.as_matrix().T + 7 for r in Rotation.random(4, random_state=1)])
    assert np.allclose(layers.superposed(turned, shape), shape, atol=1e-9)


def test_superposition_does_not_mirror():
    shape = _trajectory(1)[0]
    mirrored = shape * [1, 1, -1]
    assert np.abs(layers.superposed(mirrored[None], shape) - shape).max() > 0.1


def test_followers_keep_their_place_relative_to_the_leaders():
    leaders, followers = _trajectory(seed=2), _trajectory(n=3, seed=3)
    a, b = layers.superposed(leaders), layers.superposed(leaders, followers=followers)

    def between(x, y):
        return np.linalg.norm(x[:, :, None] - y[:, None], axis=-1)

    assert np.allclose(between(a, b), between(leaders, followers))


def test_a_bead_hugs_its_atoms():
    atoms = np.array([[[-1.0, 0, 0], [1.0, 0, 0], [9.0, 0, 0]]])
    radii = layers.bead_radii(atoms, np.array([[[0.0, 0, 0], [9.0, 0, 0]]]), [0, 0, 1])
    assert radii[0] == pytest.approx(1.5)  # the atoms lie 1 A off
    assert radii[1] < radii[0]


def test_atoms_take_the_colour_of_their_bead():
    topology = bead_topology(["A", "B", "C"], [(0, 1), (1, 2)])
    layer = layers.atom_layer(np.zeros((3, 3)), topology, beads=[1, 0, -1])
    assert layer.colors == (theme.bead_color(1), theme.bead_color(0), theme.PALE)
    assert layer.bonds == ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radii": np.ones(2)}, "radii has 2 entries for 3 balls"),
        ({"positions": np.zeros((3, 2))}, "expected"),
        ({"positions": np.full((1, 3, 3), np.nan)}, "not finite"),
    ],
)
def test_a_wrong_layer_is_refused_by_name(change, message):
    good = dict(name="x", positions=np.zeros((1, 3, 3)), radii=np.ones(3), colors=("#000000",) * 3, labels=("a",) * 3)
    with pytest.raises(ValueError, match=message):
        layers.Layer(**(good | change))


def test_groups_of_another_length_are_refused():
    topology: mdtraj.Topology = bead_topology(["A", "B"], [])
    with pytest.raises(ValueError, match="beads has 3 entries for 2 atoms"):
        layers.atom_layer(np.zeros((2, 3)), topology, beads=[0, 0, 0])
