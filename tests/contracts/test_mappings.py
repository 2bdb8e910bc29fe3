"""What every mapping must do, however it was made."""

import mdtraj
import pytest
import torch

from mlmd import units
from mlmd.cell import wrap
from mlmd.cg import autoencoder, mapping
from mlmd.frames import Frames

BUTANE = "CHHHCHHCHHCHHH"
BONDS = [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7), (7, 8), (7, 9), (7, 10), (10, 11), (10, 12), (10, 13)]
EDGE = 12.0


def butane(copies: int) -> mdtraj.Topology:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(copies):
        residue = topology.add_residue("BUT", chain)
        atoms = [
            topology.add_atom("CA" if k == 4 else f"{s}{k}", mdtraj.element.get_by_symbol(s), residue) for k, s in enumerate(BUTANE)
        ]
        for i, j in BONDS:
            topology.add_bond(atoms[i], atoms[j])
    return topology


def frames(copies: int) -> Frames:
    """Random walks along the bonds: whole molecules that stick out of a box of 12 A."""
    g = torch.Generator().manual_seed(copies)
    n = len(BUTANE)
    x = torch.zeros(40, copies, n, 3, dtype=torch.float64)
    x[:, :, 0] = EDGE * torch.rand(40, copies, 3, generator=g, dtype=torch.float64)
    for i, j in BONDS:
        step = torch.randn(40, copies, 3, generator=g, dtype=torch.float64)
        x[:, :, j] = x[:, :, i] + 1.2 * step / step.norm(dim=-1, keepdim=True)
    f = torch.randn(40, copies * n, 3, generator=g, dtype=torch.float64)
    cell = torch.eye(3, dtype=torch.float64).expand(40, 3, 3) * EDGE
    return Frames(x.reshape(40, -1, 3), butane(copies), forces=f, cell=cell, kT=300 * units.kelvin)


MAPPINGS = {
    "groups, mass": lambda f: mapping.by_groups(f, [[0, 1, 2, 3, 4], [7, 10, 11]]),
    "groups, centroid": lambda f: mapping.by_groups(f, {"HEAD": [0, 1, 2, 3, 4, 5, 6], "TAIL": list(range(7, 14))}, "centroid"),
    "residue": mapping.by_residue,
    "alpha carbon": mapping.alpha_carbon,
    "slice": lambda f: mapping.select_atoms(f, [0, 4, 10]),
    "selection": lambda f: mapping.select_atoms(f, "element C"),
    "sequence": lambda f: mapping.sequence(f, 3),
    "backbone": lambda f: mapping.backbone(f, 4),
    "random": lambda f: mapping.random(f, 5, seed=2),
    "random, connected": lambda f: mapping.random(f, 5, seed=2, connected=True),
    "molecule": mapping.molecule,
    "learned": lambda f: autoencoder.learn(f, 3, rho=1e-3, steps=60, restarts=2).mapping,
    "learned, centroid": lambda f: autoencoder.learn(f, 3, weighting="centroid", steps=60, restarts=2).mapping,
}


@pytest.fixture(scope="module", params=[1, 3], ids=["one molecule", "three molecules"])
def data(request):
    return frames(request.param)


@pytest.fixture(params=list(MAPPINGS))
def made(request, data):
    return MAPPINGS[request.param](data)


def test_weights_and_forces_are_consistent(made):
    one = torch.eye(made.n_beads, dtype=torch.float64)
    assert torch.allclose(made.weights.sum(1), torch.ones(made.n_beads, dtype=torch.float64))
    assert (made.force_weights @ made.weights.T - one).abs().max() < 1e-10
    assert bool((made.masses > 0).all())


def test_one_map_serves_all_molecules(made, data):
    copies = data.n_atoms // len(BUTANE)
    assert made.n_molecules == copies
    assert made.n_atoms == len(BUTANE)
    first = made.positions(data.positions)[:, : made.n_beads]
    assert torch.allclose(first, made.weights @ data.positions[:, : len(BUTANE)])


def test_beads_move_and_turn_with_the_atoms(made, data):
    turn, shift = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0], torch.randn(3, dtype=torch.float64)
    moved = made.positions(data.positions @ turn + shift)
    assert torch.allclose(moved, made.positions(data.positions) @ turn + shift)
    assert torch.allclose(made.forces(data.forces @ turn), made.forces(data.forces) @ turn)


def test_virtual_work_is_the_same_seen_from_atoms_or_beads(made, data):
    """A displacement M^T-dual to the beads: moving the atoms by C^T dX does the work that the bead forces do on dX."""
    d = torch.randn(40, made.n_beads * made.n_molecules, 3, dtype=torch.float64)
    atoms = (made.force_weights.T @ d.unflatten(1, (made.n_molecules, -1))).flatten(1, 2)
    assert torch.allclose((data.forces * atoms).sum((1, 2)), (made.forces(data.forces) * d).sum((1, 2)))
    assert torch.allclose(made.positions(atoms), d)  # because M C^T = 1


def test_periodic_images_do_not_change_the_shape_of_the_beads(made, data):
    cut = Frames(wrap(data.positions, data.cell), data.topology, forces=data.forces, cell=data.cell)
    whole, again = (made.apply(f).positions.unflatten(1, (made.n_molecules, -1)) for f in (data, cut))
    assert torch.allclose(whole - whole[:, :, :1], again - again[:, :, :1])


def test_bead_frames_are_complete(made, data):
    beads = made.apply(data)
    n = made.n_beads * made.n_molecules
    assert beads.positions.shape == beads.forces.shape == (40, n, 3)
    assert beads.topology.n_atoms == n == len(beads.masses) == len(beads.types)
    assert len(beads.bonds) == len(made.bonds) * made.n_molecules
    assert beads.kT == data.kT
    assert torch.equal(beads.cell, data.cell)
    assert beads.energies is None


def test_every_atom_is_in_at_most_one_bead_and_no_bead_is_empty(made):
    used = made.assignment[made.assignment >= 0]
    assert sorted(set(used.tolist())) == list(range(made.n_beads))


def test_float32_frames_stay_float32(made, data):
    assert made.positions(data.positions.float()).dtype == torch.float32


def test_files_give_the_same_mapping_back(made, data, tmp_path):
    again = mapping.Mapping.load(made.save(tmp_path / "m.npz"))
    assert torch.equal(again.apply(data).positions, made.apply(data).positions)
    assert torch.equal(again.apply(data).forces, made.apply(data).forces)
    assert again.provenance == made.provenance


def test_viewers_can_read_the_beads(made, data, tmp_path):
    trajectory = made.apply(data).to_mdtraj()
    trajectory[0].save_pdb(str(tmp_path / "beads.pdb"))
    assert mdtraj.load(str(tmp_path / "beads.pdb")).n_atoms == trajectory.n_atoms
