"""Mappings and force maps against analytic mean forces, explicit matrices, and periodic images."""

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmd import units
from mlmd.cell import wrap
from mlmd.cg import force_map, mapping
from mlmd.cg.groups import backbone_groups, fragments, identical_molecules
from mlmd.errors import BrokenCheckpoint
from mlmd.frames import Frames


def chain(elements: str, copies: int = 1, residues: list[str] | None = None, branch: tuple = ()) -> mdtraj.Topology:
    """Molecules that are chains of the given elements, plus extra bonds; one residue per name in ``residues``."""
    topology = mdtraj.Topology()
    c = topology.add_chain()
    for _ in range(copies):
        made = [topology.add_residue(r, c) for r in (residues or ["MOL"])]
        per = -(-len(elements) // len(made))
        atoms = [topology.add_atom(f"{s}{k}", mdtraj.element.get_by_symbol(s), made[k // per]) for k, s in enumerate(elements)]
        for i, j in branch or zip(range(len(atoms) - 1), range(1, len(atoms)), strict=True):
            topology.add_bond(atoms[i], atoms[j])
    return topology


def random_frames(topology: mdtraj.Topology, n: int = 5, **fields) -> Frames:
    x = torch.randn(n, topology.n_atoms, 3, dtype=torch.float64)
    return Frames(x, topology, forces=torch.randn_like(x), **fields)


def test_beads_are_centres_of_mass_or_centroids():
    frames = random_frames(chain("CHO"))
    m = frames.masses
    com = mapping.by_groups(frames, [[0, 1], [2]]).positions(frames.positions)
    expected = (m[0] * frames.positions[:, 0] + m[1] * frames.positions[:, 1]) / (m[0] + m[1])
    assert torch.allclose(com[:, 0], expected)
    centroid = mapping.by_groups(frames, [[0, 1], [2]], "centroid").positions(frames.positions)
    assert torch.allclose(centroid[:, 0], frames.positions[:, :2].mean(1))


def test_bead_masses_are_sums_for_centres_of_mass_and_harmonic_for_centroids():
    topology = chain("CHO")
    com, centroid = (mapping.by_groups(topology, [[0, 1], [2]], w) for w in ("mass", "centroid"))
    m = com.atom_masses
    assert com.masses[0].item() == pytest.approx(float(m[0] + m[1]))
    assert centroid.masses[0].item() == pytest.approx(float(4 / (1 / m[0] + 1 / m[1])))


def test_bead_masses_give_the_velocities_that_equipartition_demands():
    topology, kT = chain("CHHCO"), 0.025
    for weighting in ("mass", "centroid"):
        made = mapping.by_groups(topology, [[0, 1, 2], [3, 4]], weighting)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(40_000, 5, 3, generator=generator, dtype=torch.float64)
        v = made.positions(noise * (kT / made.atom_masses).sqrt()[:, None])
        assert torch.allclose(made.masses * v.square().mean((0, 2)), torch.full((2,), kT, dtype=torch.float64), rtol=0.02)


def test_several_molecules_share_one_map_without_a_block_matrix():
    frames = random_frames(chain("CHO", copies=4))
    made = mapping.by_groups(frames, [[0, 1], [2]])
    assert made.weights.shape == (2, 3)
    assert made.n_molecules == 4
    dense = torch.block_diag(*[made.weights] * 4)
    assert torch.allclose(made.positions(frames.positions), dense @ frames.positions)
    dense = torch.block_diag(*[made.force_weights] * 4)
    assert torch.allclose(made.forces(frames.forces), dense @ frames.forces)
    assert made.apply(frames).types.tolist() == [0, 1] * 4


def test_groups_beyond_the_first_molecule_describe_the_whole_system():
    made = mapping.by_groups(chain("CHO", copies=2), [[0, 3], [1, 2, 4, 5]])
    assert made.n_molecules == 1
    assert made.assignment.tolist() == [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(("copies", "expected"), [(1, 1), (3, 3)])
def test_identical_molecules_are_counted(copies, expected):
    assert identical_molecules(chain("CHO", copies)) == expected


def test_different_molecules_are_one_system():
    both = chain("CHO").join(chain("CH"))
    assert identical_molecules(both) == 1


def test_apply_keeps_what_beads_have_and_drops_energies():
    frames = random_frames(chain("CHO"), energies=torch.zeros(5), kT=0.02, time=torch.arange(5.0) * 7, provenance={"engine": "x"})
    beads = mapping.by_groups(frames, [[0, 1], [2]]).apply(frames)
    assert beads.energies is None
    assert beads.forces.shape == (5, 2, 3)
    assert beads.kT == 0.02
    assert beads.time[1] == 7
    assert beads.provenance["engine"] == "x"
    assert beads.topology.n_bonds == 1
    assert beads.masses.sum().item() == pytest.approx(float(frames.masses.sum()))


def test_cut_molecules_are_made_whole_before_mapping():
    topology = chain("CCCCC", copies=2)
    cell = torch.tensor([[9.0, 0, 0], [1.0, 8.0, 0], [0.5, 0.3, 9.5]], dtype=torch.float64).expand(3, 3, 3)
    steps = torch.nn.functional.normalize(torch.randn(3, 10, 3, dtype=torch.float64), dim=-1) * 1.5
    steps[:, 5] = 4.0
    x = steps.cumsum(1)
    made = mapping.by_groups(topology, [[0, 1], [2, 3, 4]])
    whole = made.apply(Frames(x, topology, cell=cell)).positions
    cut = made.apply(Frames(wrap(x, cell), topology, cell=cell)).positions
    assert not torch.allclose(made.positions(wrap(x, cell)), whole)
    lattice = torch.linalg.solve(cell.mT, (whole - cut).mT).mT
    assert torch.allclose(lattice, lattice.round(), atol=1e-9)
    assert torch.allclose(whole[:, 1] - whole[:, 0], cut[:, 1] - cut[:, 0])


def test_unbonded_atoms_of_a_bead_come_to_the_nearest_image_of_its_first_atom():
    topology = mdtraj.Topology()
    residue = topology.add_residue("W", topology.add_chain())
    for k in range(4):
        topology.add_atom(f"O{k}", mdtraj.element.oxygen, residue)
    x = torch.tensor([[[0.1, 5, 5], [9.9, 5, 5], [0.2, 5, 5], [9.8, 5, 5]]], dtype=torch.float64)
    frames = Frames(x, topology, cell=torch.eye(3, dtype=torch.float64)[None] * 10)
    bead = mapping.by_groups(frames, [[0, 1, 2, 3]]).apply(frames)
    assert torch.allclose(bead.positions, torch.tensor([[[0.0, 5, 5]]], dtype=torch.float64), atol=1e-9)


def test_a_mapping_survives_the_disk_and_a_damaged_file_is_named(tmp_path):
    made = mapping.by_residue(chain("CHHCOO", copies=2, residues=["AAA", "BBB"]))
    path = made.save(tmp_path / "map.npz")
    again = mapping.Mapping.load(path)
    for name in ("weights", "force_weights", "atom_masses", "types"):
        assert torch.equal(getattr(again, name), getattr(made, name))
    for name in ("names", "bonds", "atom_bonds", "n_molecules", "provenance"):
        assert getattr(again, name) == getattr(made, name)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BrokenCheckpoint, match=r"map\.npz"):
        mapping.Mapping.load(path)


def test_beads_are_bonded_where_an_atomic_bond_crosses():
    made = mapping.by_groups(chain("CCCCC"), [[0, 1], [2], [3, 4]])
    assert made.bonds == ((0, 1), (1, 2))
    written = made.topology().to_bondgraph()
    assert written.number_of_edges() == 2


def test_residues_of_one_name_share_a_type():
    made = mapping.by_residue(chain("CHCHOH", residues=["AAA", "BBB", "AAA"]))
    assert made.types.tolist() == [0, 1, 0]
    assert made.names == ("AAA", "BBB", "AAA")


def test_alpha_carbons_form_a_chain(shared_data):
    # heavy atoms of a protein; the file is of others
    model = mdtraj.load_frame(str(shared_data / "ped" / "PED00151val.pdb"), 0)
    made = mapping.alpha_carbon(model.topology)
    assert made.n_beads == model.topology.n_residues
    assert made.bonds == tuple((i, i + 1) for i in range(made.n_beads - 1))
    x = torch.from_numpy(model.xyz.astype(np.float64)) * units.nm
    step = made.positions(x).diff(dim=1).norm(dim=-1)
    assert 3.6 < step.median() < 4.0


def test_alpha_carbons_are_missed_by_name():
    with pytest.raises(ValueError, match="no alpha carbon"):
        mapping.alpha_carbon(chain("CHO"))


def test_backbone_pieces_hang_together_and_hydrogens_follow_their_atom():
    # butane: four carbons with 3, 2, 2, 3 hydrogens
    elements = [6, 1, 1, 1, 6, 1, 1, 6, 1, 1, 6, 1, 1, 1]
    bonds = [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7), (7, 8), (7, 9), (7, 10), (10, 11), (10, 12), (10, 13)]
    assert backbone_groups(elements, bonds, 4) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12, 13]]
    assert backbone_groups(elements, bonds, 2) == [list(range(7)), list(range(7, 14))]
    more = backbone_groups(elements, bonds, 9)
    assert sorted(a for g in more for a in g) == list(range(14))
    assert all(len(g) > 0 for g in more)


def test_random_connected_beads_hang_together():
    topology = chain("CCCCCCCCCC")
    for seed in range(5):
        made = mapping.random(topology, 4, seed, connected=True)
        assert set(fragments(made.assignment.tolist(), made.atom_bonds).values()) == {1}
    free = [mapping.random(topology, 4, s).assignment.tolist() for s in (0, 0, 1)]
    assert free[0] == free[1] != free[2]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "n_beads=0"),
        ([[0], [1], [2], [0]], "n_beads=4"),
        ([[0, 1], []], r"groups\[1\] is empty"),
        ([[0, 3]], "atom 3, but indices run from 0 to 2"),
        ([[0, -1]], "atom -1"),
        ([[0, 1], [1, 2]], "atom 1 is in groups"),
        ([[0, 0]], "atom 0 is in groups"),
    ],
)
def test_bad_groups_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        mapping.by_groups(chain("CHO"), groups)


@pytest.mark.parametrize("make", [mapping.sequence, mapping.backbone, mapping.random])
@pytest.mark.parametrize("n", [0, -1, 4])
def test_impossible_numbers_of_beads_are_refused(make, n):
    with pytest.raises(ValueError, match=f"n_beads={n}"):
        make(chain("CHO"), n)


def test_other_bad_input_is_named():
    topology = chain("CHO")
    with pytest.raises(ValueError, match="weighting='mas'"):
        mapping.by_groups(topology, [[0]], "mas")
    with pytest.raises(ValueError, match="n_molecules=2 does not divide the 3 atoms"):
        mapping.by_groups(topology, [[0]], n_molecules=2)
    with pytest.raises(ValueError, match="selects nothing"):
        mapping.select_atoms(topology, "name XX")
    with pytest.raises(ValueError, match="frames hold 4 atoms, the mapping expects 3"):
        mapping.molecule(topology).apply(random_frames(chain("CHOO")))
    with pytest.raises(ValueError, match="forces has shape"):
        mapping.molecule(topology).forces(torch.zeros(4, 3))


def test_shared_atoms_have_no_assignment():
    topology = chain("CHO")
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    soft = mapping.Mapping(
        weights, force_map.least_norm(weights), mapping.molecule(topology).atom_masses, ("A", "B"), torch.arange(2)
    )
    with pytest.raises(ValueError, match="assignment needs"):
        _ = soft.assignment


def test_an_inexact_force_map_is_refused():
    made = mapping.by_groups(chain("CHO"), [[0, 1], [2]])
    with pytest.raises(ValueError, match="not exact"):
        made.with_force_weights(made.weights * 0.9)


# --- force maps ---------------------------------------------------------------------------------------------------------------


def harmonic(n: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Stiffness K of a tethered chain with random springs, and the covariance kT K^-1 per coordinate for kT = 1."""
    g = torch.Generator().manual_seed(seed)
    k = torch.diag(0.5 + torch.rand(n, generator=g, dtype=torch.float64))
    for i in range(n - 1):
        s = 1 + 4 * torch.rand((), generator=g, dtype=torch.float64)
        k[i, i] += s
        k[i + 1, i + 1] += s
        k[i, i + 1] -= s
        k[i + 1, i] -= s
    return k, torch.linalg.inv(k)


def sample(k: torch.Tensor, covariance: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.linalg.cholesky(covariance) @ torch.randn(n, len(k), 3, generator=g, dtype=torch.float64)
    return x, -(k @ x)


WEIGHTS = torch.tensor([[0.25, 0.75, 0, 0, 0, 0], [0, 0, 0.5, 0.3, 0.2, 0], [0, 0, 0, 0, 0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["aggregate", "least_norm", "optimal"])
def test_mapped_forces_average_to_the_mean_force_of_a_harmonic_chain(kind):
    """X is Gaussian with covariance M S M^T, so -grad W = -kT (M S M^T)^-1 X; regression of C f on X must find that matrix."""
    k, s = harmonic()
    x, f = sample(k, s, 20_000)
    c = force_map.optimal(WEIGHTS, f) if kind == "optimal" else getattr(force_map, kind)(WEIGHTS)
    beads = WEIGHTS @ x
    found = torch.linalg.lstsq(flat(beads), flat(c @ f)).solution.T
    exact = -torch.linalg.inv(WEIGHTS @ s @ WEIGHTS.T)
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()
    if kind == "aggregate":  # the mean of the forces instead of their sum is biased, and this test would see it
        wrong = torch.linalg.lstsq(flat(beads), flat(WEIGHTS @ f)).solution.T
        assert (wrong - exact).abs().max() > 0.3 * exact.abs().max()


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).reshape(-1, x.shape[1])


def test_the_optimal_force_map_of_a_harmonic_chain_has_no_noise_at_all():
    """There C = (M S M^T)^-1 M S satisfies C M^T = 1 and C f is the mean force itself (kT = 1)."""
    k, s = harmonic()
    f = torch.zeros(6, 6, 3, dtype=torch.float64)
    f[:, :, 0] = torch.linalg.cholesky(k).T  # six frames whose covariance is exactly that of the ensemble, <f f^T> = kT K
    exact = torch.linalg.solve(WEIGHTS @ s @ WEIGHTS.T, WEIGHTS @ s)
    assert torch.allclose(force_map.optimal(WEIGHTS, f, ridge=1e-12), exact, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000), st.data())
def test_every_force_map_is_exact_and_respects_rigid_bonds(n, seed, data):
    b = data.draw(st.integers(1, n))
    g = torch.Generator().manual_seed(seed)
    label = torch.cat([torch.arange(b), torch.randint(b, (n - b,), generator=g)])
    w = torch.nn.functional.one_hot(label, b).T.double() * (0.1 + torch.rand(n, generator=g, dtype=torch.float64))
    w = w / w.sum(1, keepdim=True)
    same = [(i, j) for i in range(n) for j in range(i) if label[i] == label[j]][:2]
    f = torch.randn(50, n, 3, generator=g, dtype=torch.float64)
    soft = w + 0.01
    soft = soft / soft.sum(1, keepdim=True)
    cases = [(w, force_map.aggregate(w, same)), (w, force_map.least_norm(w, same)), (w, force_map.optimal(w, f, same))]
    cases += [(soft, force_map.least_norm(soft)), (soft, force_map.optimal(soft, f))]
    for m, c in cases:
        assert (c @ m.T - torch.eye(b, dtype=torch.float64)).abs().max() < 1e-10
    for _, c in cases[:3]:
        for i, j in same:
            assert (c[:, i] - c[:, j]).abs().max() < 1e-12
    assert force_map.mean_square(cases[2][1], f) <= force_map.mean_square(cases[0][1], f) * (1 + 1e-9)


def test_optimal_noise_is_reported_on_frames_that_were_not_fitted():
    k, s = harmonic()
    _, f = sample(k, s, 1000)
    c, report = force_map.optimise(WEIGHTS, f)
    assert report.n_fit == 800
    assert report.n_held_out == 200
    assert report.held_out_after == pytest.approx(force_map.mean_square(c, f[800:]))
    assert report.after < report.before
    assert report.held_out_after < report.held_out_before
    with pytest.raises(ValueError, match="held_out"):
        force_map.optimise(WEIGHTS, f[:1])


def test_forces_of_rigidly_bound_hydrogens_are_added_to_a_selected_atom():
    """A rigid dimer of length d, atom 2 in a harmonic well: W(r) = k r^2/2 - kT ln(sinh(a)/a), a = k r d / kT, for atom 1."""
    k, d, n = 1.0, 1.5, 200_000
    g = torch.Generator().manual_seed(0)
    x2 = torch.randn(n, 3, generator=g, dtype=torch.float64)
    axis = torch.nn.functional.normalize(torch.randn(n, 3, generator=g, dtype=torch.float64), dim=-1)
    x = torch.stack([x2 - d * axis, x2], 1)
    f = torch.stack([torch.zeros_like(x2), -k * x2], 1)
    frames = Frames(x, chain("CH"), forces=f, constraints=torch.tensor([[0, 1]]))
    beads = mapping.select_atoms(frames, [0]).apply(frames)
    r = beads.positions[:, 0].norm(dim=-1)
    radial = (beads.forces[:, 0] * beads.positions[:, 0]).sum(-1) / r
    for low in (0.5, 1.0, 1.5, 2.0):
        inside = (r > low) & (r < low + 0.1)
        a = k * r[inside] * d
        exact = (-k * r[inside] + k * d * (1 / torch.tanh(a) - 1 / a)).mean()
        error = radial[inside].std() / inside.sum().sqrt()
        assert abs(radial[inside].mean() - exact) < 4 * error
    bare = mapping.select_atoms(Frames(x, chain("CH"), forces=f), [0]).apply(frames)
    assert bare.forces.abs().max() == 0  # without the constraint the slice map sees no force on atom 1: biased here


def test_a_rigid_bond_across_two_beads_is_handled_or_refused():
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"atoms \[1, 2\].*least_norm"):
        force_map.aggregate(weights, [(1, 2)])
    c = force_map.default(weights, [(1, 2)])
    assert torch.allclose(c @ weights.T, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(c[:, 1], c[:, 2])
    with pytest.raises(ValueError, match="no exact force map"):
        force_map.least_norm(weights, [(0, 1), (1, 2), (2, 3)])
    with pytest.raises(ValueError, match="constraints name atom 9"):
        force_map.least_norm(weights, [(0, 9)])


def test_mapped_forces_of_alanine_dipeptide_pass_the_virial_test(shared_data):
    """<r.F> = -3(B-1) kT for beads of beads of a data set by others (300 K; blocks of 500 frames give the error)."""
    x = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_cacb_coordinates.npy")).double()
    f = torch.from_numpy(np.load(shared_data / "ala2" / "cgnet_ala2_cacb_forces.npy")).double() * units.kcal_mol
    frames = Frames(x, chain("CNCCCN"), forces=f)
    for groups in ([[0, 1], [2, 3], [4, 5]], [[0], [1], [2, 3], [4, 5]]):
        beads = mapping.by_groups(frames, groups).apply(frames)
        r = beads.positions - beads.positions.mean(1, keepdim=True)
        kT = -(r * beads.forces).sum((1, 2)) / (3 * len(groups) - 3)
        blocks = kT.reshape(20, -1).mean(1)
        assert abs(blocks.mean() - 300 * units.kelvin) < 3 * blocks.std() / 20**0.5
