"""One map for all molecules of a liquid: wherever the walls cut them, and whichever end they are read from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlmd import datasets
from mlmd.cell import wrap
from mlmd.cg import autoencoder, mapping
from mlmd.cg.partition import one_hot
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.datasets import alkanes
from mlmd.frames import Frames


@pytest.fixture(scope="module")
def ethane() -> Frames:
    return datasets.load("ethane")[::40]


@pytest.fixture(scope="module")
def chains() -> Frames:
    return datasets.load("tetracosane")[::40]


def broken(frames: Frames) -> Frames:
    """Every atom back into the cell."""
    return replace(frames, positions=wrap(frames.positions.double(), frames.cell))


def test_ethane_is_split_between_its_carbons(ethane):
    """Both halves alike: two beads of one type, bonded, 125 copies."""
    found = autoencoder.learn(ethane, 2, restarts=4, steps=100)
    m = with_equivalent_types(found.mapping, ethane)
    assert m.assignment.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (m.n_molecules, m.bonds, m.types.tolist()) == (125, ((0, 1),), [0, 0])


@pytest.mark.parametrize("n_beads", [12, 8])
def test_chains_are_cut_into_runs_no_worse_than_equal_ones(chains, n_beads):
    """Ends move more than the middle, so that shorter beads there and longer ones elsewhere may tell more than equal runs."""
    found = autoencoder.learn(chains, n_beads, restarts=4, steps=100)
    label = found.mapping.assignment
    assert all(found.connected) and bool((label.diff() >= 0).all())
    size = torch.bincount(label)
    assert len(size) == n_beads and int(size.max()) <= 24 // n_beads + 1
    equal = autoencoder.statistics(chains).reconstruction(one_hot(torch.arange(24) // (24 // n_beads), n_beads))
    assert found.reconstruction <= float(equal) * (1 + 1e-9)


def test_walls_of_the_box_do_not_matter(ethane):
    cut = broken(ethane)
    assert float((cut.positions - ethane.positions).abs().max()) > 20  # molecules are cut indeed
    whole, again = (autoencoder.statistics(f) for f in (ethane, cut))
    assert torch.allclose(whole.positions, again.positions, atol=1e-6)
    m = mapping.by_groups(ethane, [[0, 1, 2, 3], [4, 5, 6, 7]])
    one, other = m.apply(ethane).positions.double(), m.apply(cut).positions.double()
    shift = torch.linalg.solve(ethane.cell.mT, (one - other).mT).mT
    assert float((shift - shift.round()).abs().max()) < 1e-5
    halves = one.reshape(len(one), -1, 2, 3).diff(dim=2).norm(dim=-1)
    at_rest = 1.529 + 2 * 3 * 1.008 / 15.035 * 1.09 * np.cos(np.radians(180 - 110.7))
    assert float(halves.mean()) == pytest.approx(at_rest, abs=0.02) and float(halves.std()) < 0.1


def test_reading_every_chain_from_its_other_end_mirrors_the_map(chains):
    back = torch.arange(chains.n_atoms).reshape(-1, 24).flip(1).flatten()
    assert chains.forces is not None
    mirrored = replace(chains, positions=chains.positions[:, back], forces=chains.forces[:, back])
    one, other = (autoencoder.learn(f, 5, restarts=4, steps=100).mapping for f in (chains, mirrored))
    flipped = other.assignment.flip(0)
    assert bool(((flipped[:, None] == flipped[None]) == (one.assignment[:, None] == one.assignment[None])).all())


def mixture() -> Frames:
    """Two ethanes and a propane in a box."""
    top = alkanes.topology(2, 2).join(alkanes.topology(3))
    x = np.concatenate([alkanes.positions(2), alkanes.positions(2) + 6, alkanes.positions(3) + 12])
    return Frames(torch.from_numpy(np.stack([x, x + 0.1])), top, cell=20 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1))


def test_molecules_of_different_kinds_are_refused():
    with pytest.raises(ValueError, match=r"3 molecules that are not copies of one.*take those of one kind first"):
        autoencoder.learn(mixture(), 2)
    with pytest.raises(ValueError, match=r"n_molecules=3: molecule 1 has other atoms than molecule 0.*one map serves"):
        mapping.by_groups(mixture(), [[0, 1, 2, 3], [4, 5, 6, 7]], n_molecules=3)
    ethane = mixture().atoms("resname C2")
    assert mapping.by_groups(ethane, [[0, 1, 2, 3], [4, 5, 6, 7]]).n_molecules == 2
