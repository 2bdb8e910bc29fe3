"""Bonds guessed from distances are those of the molecule."""

import numpy as np
import pytest
import torch

from mlmd import datasets, io
from mlmd.datasets import alkanes
from mlmd.frames import Frames, bead_topology
from mlmd.io.bonds import atomic_numbers, guess_bonds, unbonded
from mlmd.io.formats import topology_of


@pytest.mark.parametrize("name", [d.name for d in datasets.available() if d.ships])
def test_guessed_bonds_are_those_of_the_topology_in_thermal_frames(name):
    frames = datasets.load(name)[::500]
    for x in frames.positions:
        assert guess_bonds(x, atomic_numbers(frames.topology)) == frames.bonds


def test_a_hydrogen_between_two_atoms_goes_to_the_nearer():
    x = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.2, 0, 0]])
    assert guess_bonds(x, [8, 1, 8]) == [(0, 1)]


def test_ions_noble_gases_and_beads_get_no_bonds():
    x = torch.tensor([[0.0, 0, 0], [2.3, 0, 0]])
    for numbers in ([11, 17], [18, 18], [0, 0]):
        assert guess_bonds(x, numbers) == []


def test_bonds_in_a_box_narrower_than_the_cutoff_are_listed_once():
    x = torch.tensor([[0.2, 0, 0], [3.3, 0, 0]])  # H2 across the face of a box of 4 A
    assert guess_bonds(x, [1, 1], 4.0 * torch.eye(3)) == []  # 0.9 A apart: too far for H2
    assert guess_bonds(x, [6, 6], 4.0 * torch.eye(3)) == [(0, 1)]


def test_only_residues_without_any_bond_are_looked_at(tmp_path):
    """Water is known to the reader of GRO files, an alkane is not: its bonds come from distances."""
    water = topology_of(np.array([8, 1, 1]))
    top = alkanes.topology(3).join(water)
    for residue in top.residues:
        residue.name = "HOH" if residue.n_atoms == 3 else residue.name
    atoms = list(top.atoms)
    for atom, name in zip(atoms[11:], ("O", "H1", "H2"), strict=True):
        atom.name = name
    xw = np.array([[0, 0, 8.0], [0.957, 0, 8.0], [-0.24, 0.927, 8.0]])
    x = torch.from_numpy(np.concatenate([alkanes.positions(3), xw]))[None]
    Frames(x, top).to_mdtraj().save(str(tmp_path / "a.gro"))
    back = io.read(tmp_path / "a.gro")
    water_bonds = [(11, 12), (11, 13)]
    assert back.bonds == Frames(x[:, :11], alkanes.topology(3)).bonds + water_bonds
    assert "11 atoms" in back.provenance["bonds"]
    assert unbonded(back.topology) == []
    assert atomic_numbers(bead_topology(["A"], [])) == [0]
