"""The auto-encoder against its definition frame by frame, exhaustive search, and data with a known answer."""

import itertools

import mdtraj
import pytest
import torch

from mlmd import datasets, units
from mlmd.cg import autoencoder, mapping
from mlmd.cg.autoencoder import Annealing, Objective, learn, learn_mapping, linear_decoder, reconstruction_error, statistics
from mlmd.cg.groups import components, fragments, united_atoms
from mlmd.cg.partition import count_pieces, improve, moves, one_hot, regroupings, repair, swaps
from mlmd.frames import Frames


def topology(n: int, copies: int = 1) -> mdtraj.Topology:
    out = mdtraj.Topology()
    chain = out.add_chain()
    for _ in range(copies):
        residue = out.add_residue("MOL", chain)
        atoms = [out.add_atom(f"C{k}", mdtraj.element.carbon if k % 2 == 0 else mdtraj.element.oxygen, residue) for k in range(n)]
        for a, b in itertools.pairwise(atoms):
            out.add_bond(a, b)
    return out


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(n: int = 7, frames: int = 200, seed: int = 0) -> Frames:
    """Chains with springs of unequal strength; forces without any pattern."""
    stiffness = 0.3 + torch.rand(n, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    x = (noise(frames, n, 3, seed=seed) * stiffness[:, None]).cumsum(1)
    return Frames(x, topology(n), forces=noise(frames, n, 3, seed=seed + 1))


def clusters(frames: int = 500) -> Frames:
    """Three tight clusters of atoms {0,3,6}, {1,4,7}, {2,5,8} that move independently by 3 A; inside a cluster 0.1 A."""
    centre = 3 * noise(frames, 3, 3)
    x = centre[:, [0, 1, 2] * 3] + 0.1 * noise(frames, 9, 3, seed=5)
    return Frames(x, topology(9))


def centred(frames: Frames, centre: torch.Tensor) -> torch.Tensor:
    return frames.positions - torch.einsum("n,fnc->fc", centre / centre.sum(), frames.positions)[:, None]


@pytest.mark.parametrize("weighting", ["mass", "centroid"])
def test_the_loss_from_covariances_is_that_of_the_frames(weighting):
    """Soft choice, encoder, decoder by least squares over all frames, and mean squares, written out without the algebra."""
    frames = walk()
    stats = statistics(frames, weighting)
    choice = torch.softmax(noise(3, 7), 0)
    m = frames.masses if weighting == "mass" else torch.ones(7, dtype=torch.float64)
    x = centred(frames, m)
    encoder = choice * m / (choice * m).sum(1, keepdim=True)
    z = (encoder @ x).transpose(1, 2).reshape(-1, 3)
    flat = x.transpose(1, 2).reshape(-1, 7)
    fitted = z @ torch.linalg.lstsq(z, flat, driver="gelsd").solution
    expected = (fitted - flat).square().sum() / (len(frames) * 7)
    assert float(stats.reconstruction(choice)) == pytest.approx(float(expected), rel=1e-7)
    force = (choice @ frames.forces).square().sum(-1).mean()
    assert float(stats.mean_square_force(choice)) == pytest.approx(float(force))


def test_the_mean_over_minibatches_is_the_loss_of_the_covariances():
    """|x - D E x|^2 with one decoder for all, averaged over minibatches, as a training loop would."""
    frames = walk(frames=240)
    made = mapping.sequence(frames, 3)
    decoder = linear_decoder(made, frames)
    batches = [frames[slice(k, k + 24)] for k in range(0, 240, 24)]
    error = [(b.positions - decoder @ made.positions(b.positions)).square().sum(-1).mean() for b in batches]
    loss = statistics(frames).reconstruction(one_hot(made.assignment, 3))
    assert float(torch.stack(error).mean()) == pytest.approx(float(loss))


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    stats = statistics(walk())
    logits = noise(3, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: stats.reconstruction(torch.softmax(z, -2)), logits, eps=1e-6, atol=1e-5)


def test_the_decoder_moves_with_the_beads_and_is_the_least_squares_one():
    frames = walk()
    for made in (mapping.sequence(frames, 3), mapping.select_atoms(frames, [0, 3, 6])):
        decoder = linear_decoder(made, frames)
        assert torch.allclose(decoder.sum(1), torch.ones(7, dtype=torch.float64))
        best = reconstruction_error(made, decoder, frames).mean()
        for seed in range(3):
            change = 1e-3 * noise(7, 3, seed=seed)
            change -= change.mean(1, keepdim=True)
            assert reconstruction_error(made, decoder + change, frames).mean() > best


def test_independent_clusters_are_found():
    result = learn(clusters(), 3, steps=200, restarts=4)
    assert result.mapping.assignment.tolist() == [0, 1, 2] * 3
    assert result.hardened
    assert result.largest_weight > 0.99
    assert result.rmsd < 0.1 * 3**0.5


def test_annealing_alone_finds_them_too():
    result = learn(clusters(), 3, steps=300, restarts=4, search=False, hand_made=False)
    assert result.annealed_assignment.tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_no_partition_at_all_is_better_than_the_learned_one(rho):
    frames = walk(n=7)
    result = learn(frames, 3, rho=rho, steps=200, restarts=4)
    objective = Objective(statistics(frames), torch.eye(7, dtype=torch.float64), (), rho, 0.0)
    every = torch.tensor([p for p in itertools.product(range(3), repeat=7) if len(set(p)) == 3])
    assert result.loss == pytest.approx(float(objective.hard(every, 3).min()), rel=1e-9)


@pytest.mark.parametrize("rho", [0.0, 1e-4 / units.kcal_mol**2])
def test_the_connected_map_of_alanine_dipeptide_is_the_best_of_all_connected_ones(rho):
    """Its bonds form a tree of 22 atoms, so cutting any 3 of 21 bonds gives all 1330 maps of four connected beads."""
    frames = datasets.load("alanine-dipeptide")[:4000]
    mol = mapping.molecule_of(frames)
    every = []
    for cut in itertools.combinations(mol.bonds, 3):
        parts = components(22, [b for b in mol.bonds if b not in cut])
        every.append([next(k for k, p in enumerate(parts) if a in p) for a in range(22)])
    objective = Objective(statistics(frames), torch.eye(22, dtype=torch.float64), mol.bonds, rho, 0.0)
    result = learn(frames, 4, rho=rho, disconnected_penalty=1.0, steps=300, restarts=8)
    assert result.loss == pytest.approx(float(objective.hard(torch.tensor(every), 4).min()), rel=1e-9)
    assert all(result.connected)


def test_the_learned_map_is_never_worse_than_the_hand_made_ones():
    frames = walk(n=12)
    result = learn(frames, 4, rho=0.01, steps=20, restarts=1)
    assert set(result.hand_made_losses) == {"sequence", "backbone"}
    assert result.loss <= min(result.hand_made_losses.values())
    assert result.loss <= result.annealed_loss
    assert result.start in {"annealing", "sequence", "backbone"}


def test_nothing_linear_is_better_than_the_bound():
    frames = walk(n=8)
    result = learn(frames, 4, steps=100, restarts=2)
    assert result.linear_bound <= result.reconstruction
    x = centred(frames, frames.masses)
    flat = x.transpose(1, 2).reshape(-1, 8)
    singular = torch.linalg.svdvals(flat)
    assert result.linear_bound == pytest.approx(float(singular[3:].square().sum() / len(frames) / 8))


def test_the_result_agrees_with_its_own_decoder_and_mapping():
    frames = walk(n=8)
    result = learn(frames, 3, rho=0.01, steps=100, restarts=2)
    error = reconstruction_error(result.mapping, result.decoder, frames).mean()
    assert result.reconstruction == pytest.approx(float(error))
    mapped = result.mapping.forces(frames.forces).square().sum(-1).mean()
    assert result.mean_square_force == pytest.approx(float(mapped))
    assert result.loss == pytest.approx(result.reconstruction + 0.01 * result.mean_square_force)
    k = len(result.steps)
    assert result.assignment_history.shape == (k, 3, 8)
    assert torch.allclose(result.assignment_history.sum(1), torch.ones(k, 8, dtype=torch.float64))
    assert len(result.temperatures) == len(result.losses) == k


def test_the_temperature_is_really_used():
    """At a temperature that stays high the weights stay soft, and the result says so."""
    frames = clusters(100)
    hot = learn(frames, 3, steps=60, restarts=2, temperatures=(50.0, 50.0))
    assert not hot.hardened
    assert hot.largest_weight < 0.9
    assert hot.mapping.one_hot
    cold = learn(frames, 3, steps=200, restarts=8)
    assert cold.temperatures[0] == 4.0
    assert cold.temperatures[-1] == pytest.approx(0.02)
    ratio = cold.temperatures[1:-1] / cold.temperatures[:-2]
    assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-4)  # geometric
    peaks = cold.assignment_history.amax(1).min(1).values
    assert peaks[0] < 0.5
    assert peaks[-1] > 0.99


def test_the_temperature_acts_on_training_and_not_only_on_what_is_shown():
    """Two courses that end at the same temperature: were it missing in the training loss, their logits would be the same."""
    frames = walk()
    runs = (learn_mapping(frames, 3, steps=30, restarts=1, temperatures=(t, 1.0)) for t in (4.0, 1.0, 1.0))
    ends = [list(logs)[-1].assignment for logs in runs]
    assert torch.equal(ends[1], ends[2])
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_gumbel_noise_samples_the_softmax():
    """argmax(logits + g) has the probabilities softmax(logits): the Gumbel-max law."""
    logits = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    g = autoencoder.gumbel((40_000, 3), torch.Generator().manual_seed(0))
    counts = torch.bincount((logits + g).argmax(1), minlength=3) / 40_000
    assert torch.allclose(counts.double(), torch.softmax(logits, 0), atol=0.01)


def test_gumbel_noise_acts_on_training(monkeypatch):
    frames = walk()
    noisy = [log.assignment for log in learn_mapping(frames, 3, steps=30, restarts=1)]
    monkeypatch.setattr(autoencoder, "gumbel", lambda shape, generator: torch.zeros(shape, dtype=torch.float64))
    silent = [log.assignment for log in learn_mapping(frames, 3, steps=30, restarts=1)]
    assert torch.equal(noisy[0], silent[0])  # the same start
    assert (noisy[-1] - silent[-1]).abs().max() > 1e-3


def test_noise_depends_on_the_seed_and_on_nothing_else():
    frames = walk()

    def course(seed: int) -> torch.Tensor:
        return learn(frames, 3, steps=60, restarts=2, seed=seed).assignment_history

    torch.manual_seed(123)
    first = course(0)
    torch.manual_seed(321)
    assert torch.equal(first, course(0))
    assert not torch.equal(first, course(1))


def test_the_force_term_enters_in_the_second_phase():
    frames = walk()
    logs = {rho: list(learn_mapping(frames, 3, rho=rho, steps=80, restarts=1)) for rho in (0.0, 1.0)}
    start = Annealing().force_from * 80
    for a, b in zip(logs[0.0], logs[1.0], strict=True):
        same = torch.equal(a.assignment, b.assignment)
        assert same == (a.step <= start)
        if b.step < 80:
            assert b.phase == ("reconstruction" if b.step < start else "reconstruction and force")


def test_rho_trades_reconstruction_for_smaller_forces():
    """Forces that cancel inside neighbours: beads of neighbours have small forces, and rho finds them."""
    frames = walk(n=8)
    pair = noise(len(frames), 4, 3, seed=7)
    f = 0.1 * noise(len(frames), 8, 3, seed=8) + 5 * torch.stack([pair, -pair], 2).reshape(len(frames), 8, 3)
    frames = Frames(frames.positions, frames.topology, forces=f)
    rows = list(autoencoder.scan(frames, [4], [0.0, 0.1, 100.0], steps=200, restarts=4))
    force = [r.mean_square_force for _, _, r in rows]
    error = [r.reconstruction for _, _, r in rows]
    assert force[0] >= force[1] >= force[2]
    assert error[0] <= error[1] <= error[2]
    assert rows[-1][2].mapping.assignment.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_molecules_of_one_kind_are_more_samples_of_the_same_thing():
    one = walk(n=6, frames=90)
    x = one.positions.reshape(30, 3, 6, 3) + 20 * noise(30, 3, 1, 3)  # each anywhere: centred by itself
    three = Frames(x.reshape(30, 18, 3), topology(6, copies=3), forces=one.forces.reshape(30, 18, 3))
    a, b = (learn(f, 2, rho=0.01, steps=100, restarts=2) for f in (one, three))
    assert b.mapping.n_molecules == 3
    assert torch.equal(a.mapping.weights, b.mapping.weights)
    assert b.reconstruction == pytest.approx(a.reconstruction)
    assert b.mapping.apply(three).n_atoms == 6


def test_molecules_cut_by_the_box_are_learned_whole():
    frames = walk(n=6)
    cell = torch.eye(3, dtype=torch.float64).expand(len(frames), 3, 3) * 30
    cut = Frames(frames.positions % 30, frames.topology, cell=cell)
    assert torch.allclose(statistics(cut).positions, statistics(frames).positions)


def test_a_penalty_keeps_beads_in_one_piece():
    frames = clusters(200)
    free = learn(frames, 3, steps=200, restarts=4)
    assert not any(free.connected)
    tied = learn(frames, 3, steps=200, restarts=4, disconnected_penalty=100.0)
    assert all(tied.connected)
    assert sum(fragments(tied.mapping.assignment.tolist(), tied.mapping.atom_bonds).values()) == 3


def test_atoms_that_stay_together_share_a_bead():
    frames = walk(n=8)
    pairs = [(0, 5), (5, 7), (2, 3)]
    label = learn(frames, 3, together=pairs, steps=100, restarts=2).mapping.assignment
    assert all(label[i] == label[j] for i, j in pairs)
    held = Frames(frames.positions, frames.topology, constraints=torch.tensor(pairs))
    assert torch.equal(label, learn(held, 3, steps=100, restarts=2).mapping.assignment)
    assert united_atoms([6, 1, 8], [(0, 1), (0, 2)]) == [(0, 1)]


def test_atoms_without_importance_do_not_shape_the_beads():
    """Atoms 0-3 all move alone; with four beads and importance only on them, they are told apart perfectly."""
    frames = Frames(noise(300, 6, 3) * torch.tensor([1.0, 1, 1, 1, 9, 9])[:, None], topology(6))
    plain = learn(frames, 5, steps=150, restarts=4)
    heavy = learn(frames, 5, steps=150, restarts=4, importance=[1, 1, 1, 1, 0, 0])
    assert len(set(heavy.mapping.assignment[:4].tolist())) == 4
    assert reconstruction_error(heavy.mapping, heavy.decoder, frames)[:4].max() < 0.5
    assert heavy.reconstruction > plain.reconstruction


def test_logs_can_be_watched_and_left_at_any_moment():
    torch.set_grad_enabled(True)
    logs = learn_mapping(walk(), 3, steps=100, restarts=2)
    first = next(logs)
    assert first.result is None
    assert first.assignment.shape == (3, 7)
    assert not first.assignment.requires_grad
    assert torch.is_grad_enabled()
    logs.close()
    with torch.no_grad():
        assert learn(walk(), 3, steps=20, restarts=1).mapping.n_beads == 3


def test_as_many_beads_as_atoms_and_a_single_bead():
    frames = walk(n=4)
    assert learn(frames, 4, steps=20, restarts=1).rmsd < 1e-4
    single = learn(frames, 1, steps=20, restarts=1)
    assert single.reconstruction == pytest.approx(float(statistics(frames).positions.trace()) / 4)


def test_searches_leave_no_bead_empty():
    labels = torch.tensor([0, 0, 0, 1, 1])
    assert all(len(set(row.tolist())) == 2 for row in torch.cat([moves(labels, 2), swaps(labels)]))

    def loss(z: torch.Tensor) -> torch.Tensor:
        return (z - torch.tensor([2, 1, 1, 1, 0])).abs().sum(-1).double()

    fixed = repair(torch.tensor([0, 0, 0, 0, 0]), 3, loss)
    assert set(fixed.tolist()) == {0, 1, 2}
    assert improve(labels, 3, loss).tolist() == [2, 1, 1, 1, 0]


RING = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (4, 5), (5, 6)]


def test_pieces_are_counted_for_many_partitions_at_once():
    labels = torch.randint(3, (50, 7), generator=torch.Generator().manual_seed(0))
    expected = [sum(fragments(row, RING).values()) for row in labels.tolist()]
    assert count_pieces(labels, RING).tolist() == expected
    assert count_pieces(labels[0], RING).tolist() == expected[0]


def test_regroupings_keep_beads_whole_and_reach_every_partition_of_a_chain():
    """Cuts of a chain of 6 into 3 runs: all 10 are reached from any one by regrouping alone."""
    chain = [(i, i + 1) for i in range(5)]
    reached, queue = set(), [torch.tensor([0, 0, 0, 0, 1, 2])]
    for labels in queue:
        for row in regroupings(labels, chain):
            assert int(count_pieces(row, chain)) == 3 == len(set(row.tolist()))
            cuts = tuple(int(k) for k in torch.nonzero(row.diff()).flatten())
            if cuts not in reached:
                reached.add(cuts)
                queue.append(row)
    assert len(reached) == 10
    ring = regroupings(torch.tensor([0, 0, 0, 0, 0, 1, 2]), RING)
    assert int(count_pieces(ring, RING).max()) == 3  # one bond of a ring does not cut it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_beads": 0}, "n_beads=0"),
        ({"n_beads": 8}, "n_beads=8: choose a number from 1 to the 7 atoms"),
        ({"n_beads": 7, "together": [(0, 1)]}, "6 independent units"),
        ({"n_beads": 3, "rho": -1.0}, "rho=-1"),
        ({"n_beads": 3, "disconnected_penalty": -1.0}, "disconnected_penalty=-1"),
        ({"n_beads": 3, "weighting": "volume"}, "weighting='volume'"),
        ({"n_beads": 3, "steps": 1}, "steps=1"),
        ({"n_beads": 3, "temperatures": (1.0, 2.0)}, "temperatures"),
        ({"n_beads": 3, "importance": [1.0, 2.0]}, "importance has shape"),
        ({"n_beads": 3, "together": [(0, 70)]}, "atom 70"),
    ],
)
def test_bad_arguments_are_named_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        learn_mapping(walk(), **options)


def test_rho_needs_forces_and_learning_needs_frames():
    frames = walk()
    bare = Frames(frames.positions, frames.topology)
    with pytest.raises(ValueError, match="needs forces"):
        learn_mapping(bare, 3, rho=1.0)
    assert learn(bare, 3, steps=20, restarts=1).mean_square_force is None
    with pytest.raises(ValueError, match="at least two"):
        learn_mapping(frames[0], 3)
