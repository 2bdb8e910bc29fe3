"""Measures of backmapped structures against what can be counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mlmd import datasets
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.quality import best_rmsd, bond_graph, clashes, diversity, graph_errors, graph_of_bonds, quality, rmsd
from mlmd.backmap.stereo import chirality, stereocentres
from mlmd.cg import mapping


@pytest.fixture(scope="module")
def frames():
    return datasets.load("alanine-dipeptide")[:300]


@pytest.fixture(scope="module")
def molecule(frames):
    return Molecule.of(frames, mapping.sequence(frames, 6))


def test_one_atom_moved_by_one_angstrom_gives_its_share_of_the_rmsd():
    x = torch.zeros(4, 25, 3)
    moved = x.clone()
    moved[:, 3, 1] = 1.0
    assert rmsd(moved, x) == pytest.approx(1 / 5)
    assert rmsd(moved, x, torch.arange(25) == 3) == pytest.approx(1.0)
    assert best_rmsd(torch.stack([moved, x]), x) == 0.0


def test_diversity_of_gaussian_samples_is_the_distance_of_two_of_them():
    samples = 0.3 * torch.randn(8, 500, 20, 3, generator=torch.Generator().manual_seed(0))
    assert diversity(samples) == pytest.approx(0.3 * math.sqrt(6), rel=5e-3)


def test_bonds_lost_and_bonds_gained_do_not_cancel(molecule, frames):
    """The sum of all differences is zero here, and so was the error of the published code."""
    true = graph_of_bonds(molecule.bonds, molecule.n_atoms)
    wrong = true.clone()
    wrong[torch.nonzero(true)[0]], wrong[torch.nonzero(~true)[0]] = False, True
    assert int(wrong.sum()) == int(true.sum())
    assert float(graph_errors(wrong[None], true)[0]) == pytest.approx(2 / 21)


def test_the_graph_of_real_structures_is_that_of_their_bonds(molecule, frames):
    graph = bond_graph(frames.positions, molecule.numbers)
    assert float(graph_errors(graph, graph_of_bonds(molecule.bonds, 22)).max()) == 0.0


def test_an_atom_pushed_onto_a_distant_one_clashes(molecule, frames):
    x = frames.positions[:1].clone()
    before = int(clashes(x, molecule)[0])
    x[:, 20] = x[:, 1] + 0.5
    assert int(clashes(x, molecule)[0]) > before


def test_the_only_stereocentre_of_alanine_is_its_alpha_carbon_and_a_mirror_image_has_the_other_hand(molecule, frames):
    centres = stereocentres(molecule, frames.positions)
    assert centres.atoms[:, 0].tolist() == [8]
    assert chirality(frames.positions, centres) == 1.0
    assert chirality(frames.positions * torch.tensor([1.0, 1.0, -1.0]), centres) == 0.0


def test_the_reference_has_the_best_quality_there_is(molecule, frames):
    x = frames.positions
    q = quality(torch.stack([x, x]), x, molecule)
    assert (q.rmsd, q.graph_error, q.valid, q.chirality, q.diversity) == (0.0, 0.0, 1.0, 1.0, 0.0)
    assert min(q.bonds, q.angles, q.dihedrals, q.worst_dihedral) == pytest.approx(1.0)
    assert q.clashes == q.clashes_reference


def test_samples_of_other_beads_are_compared_by_distributions_alone(molecule, frames):
    x = frames.positions
    q = quality(x[None, :50], x, molecule, paired=False)
    assert math.isnan(q.rmsd) and q.valid == 1.0
    with pytest.raises(ValueError, match="paired=False"):
        quality(x[None, :50], x, molecule)
