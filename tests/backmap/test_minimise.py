"""Minimisation of backmapped structures under their force field."""

from __future__ import annotations

import pytest
import torch

from mlmd import datasets
from mlmd.backmap.minimise import minimise
from mlmd.backmap.molecule import Molecule
from mlmd.backmap.quality import clashes
from mlmd.cg import mapping

pytest.importorskip("openmm")


def test_energies_are_those_of_the_data_and_fall_while_structures_hardly_move():
    from mlmd.datasets.alanine import openmm_system

    frames = datasets.load("alanine-dipeptide")[::5000]
    assert frames.energies is not None
    result = minimise(frames.positions, openmm_system(), steps=100)
    assert torch.allclose(result.before, frames.energies.to(result.before), atol=2e-3)
    assert bool((result.after < result.before - 0.2).all())  # 66 degrees of freedom hold kT/2 each
    assert float((result.positions - frames.positions).norm(dim=-1).max()) < 2.0


def test_a_clash_is_relaxed():
    from mlmd.datasets.alanine import openmm_system

    frames = datasets.load("alanine-dipeptide")[:1]
    molecule = Molecule.of(frames, mapping.sequence(frames, 6))
    x = frames.positions.clone()
    x[:, 19:22] += 0.7 * (x[:, :1] - x[:, 18:19])  # hydrogens of one end into the other
    relaxed = minimise(x, openmm_system(), steps=500)
    assert int(clashes(x, molecule)) > int(clashes(relaxed.positions, molecule))


def test_structures_of_another_molecule_are_refused():
    from mlmd.datasets.alanine import openmm_system

    with pytest.raises(ValueError, match="22 particles"):
        minimise(torch.zeros(1, 5, 3), openmm_system())
