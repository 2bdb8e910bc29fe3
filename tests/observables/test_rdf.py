"""g(r) is one for an ideal gas, agrees with mdtraj and MDAnalysis, and refuses what nearest images cannot give."""

import sys

import mdtraj
import numpy as np
import pytest
import torch
from scipy import stats

from mlmd.frames import Frames, bead_topology
from mlmd.observables import RDF, distance_density, rdf

module = sys.modules[RDF.__module__]


def gas(frames: int, n: int, edge: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(frames, n, 3, generator=g, dtype=torch.float64) * edge, torch.eye(3, dtype=torch.float64) * edge


def by_mdtraj(x: torch.Tensor, edge: float, pairs, r_max: float, bins: int) -> np.ndarray:
    t = mdtraj.Trajectory(x.numpy() / 10, bead_topology(["B"] * x.shape[1], []))
    t.unitcell_lengths, t.unitcell_angles = np.full((len(x), 3), edge / 10, np.float32), np.full((len(x), 3), 90.0, np.float32)
    return mdtraj.compute_rdf(t, pairs, r_range=(0, r_max / 10), n_bins=bins)[1]


def test_an_ideal_gas_has_g_of_one_within_its_block_errors() -> None:
    x, cell = gas(200, 60, 20.0)
    g = rdf(x, cell, r_max=10.0, bins=50)
    assert np.sqrt(np.mean(((g.g - 1) / g.error)[3:] ** 2)) == pytest.approx(1.0, abs=0.4)
    assert abs(np.average(g.g, weights=g.count) - 1) < 0.01
    assert g.count.sum() == pytest.approx(200 * 60 * 59 / 2 * 4 / 3 * np.pi / 8, rel=0.02)


@pytest.mark.parametrize("n", [59, 60, 200])
def test_all_pairs_are_those_of_mdtraj(n: int) -> None:
    x, cell = gas(3, n, 15.0)
    x = x + 40 * torch.randn(1, n, 1)  # unwrapped
    ours = rdf(x, cell, r_max=7.4, bins=37)
    theirs = by_mdtraj(x, 15.0, [(i, j) for i in range(n) for j in range(i)], 7.4, 37)
    assert np.abs(ours.g - theirs)[3:].max() < 0.02  # one pair in another bin for single precision


def test_given_pairs_types_and_exclusions_count_what_they_say() -> None:
    x, cell = gas(20, 30, 12.0)
    types = torch.arange(30) % 3
    cross = [(i, j) for i in range(30) for j in range(30) if i % 3 == 0 and j % 3 == 1]
    same = [(i, j) for i in range(30) for j in range(i) if i % 3 == j % 3 == 2]
    for between, pairs in (((0, 1), cross), ((1, 0), cross), ((2, 2), same)):
        a, b = rdf(x, cell, r_max=5.9, bins=20, types=types, between=between), rdf(x, cell, r_max=5.9, bins=20, pairs=pairs)
        assert np.array_equal(a.count, b.count)
        assert np.allclose(a.g, b.g)
        assert np.allclose(b.g, by_mdtraj(x, 12.0, pairs, 5.9, 20), atol=0.02)
    left_out = [(3, 4), (1, 0), (0, 1), (4, 7)]
    kept = [p for p in cross if tuple(sorted(p)) not in {(0, 1), (3, 4), (4, 7)}]
    without = rdf(x, cell, r_max=5.9, bins=20, types=types, between=(0, 1), exclude=left_out)
    assert np.array_equal(without.count, rdf(x, cell, r_max=5.9, bins=20, pairs=kept).count)
    assert np.array_equal(without.count, rdf(x, cell, r_max=5.9, bins=20, pairs=cross, exclude=left_out).count)


def test_the_cell_list_and_all_pairs_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, cell = gas(2, 400, 30.0)
    types = torch.arange(400) % 2
    results = []
    for many in (1_000_000, 10):
        monkeypatch.setattr(module, "_MANY", many)
        results += [rdf(x, cell, r_max=5.0, bins=20), rdf(x, cell, r_max=5.0, bins=20, types=types, between=(0, 1))]
    for a, b in zip(results[:2], results[2:]):
        assert np.abs(a.count - b.count).max() <= 1
        assert a.count.sum() == pytest.approx(b.count.sum(), abs=1)


def test_a_skewed_box_is_the_same_fluid_as_the_straight_one() -> None:
    x, cell = gas(5, 50, 20.0)
    skewed = cell.clone()
    skewed[1] += 0.5 * cell[0]  # not the same lattice: compare with brute force over images
    got = rdf(x, skewed, r_max=8.0, bins=16)
    shifts = torch.tensor([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)], dtype=torch.float64) @ skewed
    s = torch.linalg.solve(skewed.T, x.transpose(1, 2)).transpose(1, 2)
    x = (s - s.floor()) @ skewed
    d = (x[:, :, None, None] - x[:, None, :, None] + shifts).norm(dim=-1).amin(-1)
    i, j = torch.triu_indices(50, 50, 1)
    expected = np.histogram(d[:, i, j].numpy().ravel(), bins=16, range=(0, 8.0))[0]
    assert np.abs(got.count - expected).max() <= 1


def test_replicas_and_changing_boxes_are_averaged_with_their_own_volume() -> None:
    x, _ = gas(40, 80, 1.0)
    edges = torch.linspace(14.0, 18.0, 40, dtype=torch.float64)
    cell = edges[:, None, None] * torch.eye(3, dtype=torch.float64)
    g = rdf(x * edges[:, None, None], cell, r_max=6.9, bins=20)
    assert abs(np.average(g.g, weights=g.count) - 1) < 0.01
    replicas = rdf((x * edges[:, None, None]).reshape(8, 5, 80, 3), cell.reshape(8, 5, 3, 3), r_max=6.9, bins=20)
    assert np.allclose(g.g, replicas.g)
    assert not np.allclose(g.error, replicas.error)  # blocks are replicas now


def test_smoothing_keeps_the_ideal_gas_at_one_and_equals_a_gaussian_sum() -> None:
    x, cell = gas(100, 60, 20.0)
    flat = rdf(x, cell, r_max=8.0, bins=40, smooth=True)
    assert np.abs((flat.g - 1) / flat.error)[5:].max() < 4
    width = 0.2
    i, j = torch.triu_indices(60, 60, 1)
    d = x[:, i] - x[:, j]
    d = (d - 20 * (d / 20).round()).norm(dim=-1).numpy().ravel()
    ideal = len(d) / 20.0**3 * 4 * np.pi * (flat.r**2 + width**2) * width
    direct = np.array([np.exp(-0.5 * ((d - r) / width) ** 2).sum() / np.sqrt(2 * np.pi) for r in flat.r]) / ideal
    assert np.abs(flat.g - direct)[10:].max() < 0.01


def test_frames_bring_their_cell_types_and_bonds() -> None:
    x, cell = gas(10, 12, 10.0)
    topology = bead_topology(["A", "B"], [(0, 1)], molecules=6)
    frames = Frames(x, topology, cell=cell.expand(10, 3, 3), types=torch.tensor([0, 1] * 6))
    a = rdf(frames, r_max=4.9, bins=10, between=(0, 1), exclude=frames.bonds)
    b = rdf(x, cell, r_max=4.9, bins=10, pairs=[(i, j) for i in range(0, 12, 2) for j in range(1, 12, 2) if j != i + 1])
    assert np.allclose(a.g, b.g)


def test_gaussian_chain_has_the_maxwell_density_of_distances() -> None:
    x = torch.zeros(20_000, 2, 3, dtype=torch.float64)
    x[:, 1] = torch.randn(20_000, 3, dtype=torch.float64)
    d = distance_density(x, [(0, 1)], bins=30, limits=(0, 4), n_blocks=100)
    expected = np.diff(stats.maxwell.cdf(d.edges)) / d.widths
    assert np.sqrt(np.mean(((d.density - expected) / d.error) ** 2)) == pytest.approx(1.0, abs=0.4)


def test_pooled_pairs_of_one_frame_are_one_measurement() -> None:
    x = torch.randn(500, 4, 3, dtype=torch.float64)
    one, thrice = distance_density(x, [(0, 1)], limits=(0, 6)), distance_density(x, [(0, 1)] * 3, limits=(0, 6))
    assert np.allclose(one.density, thrice.density)
    assert np.allclose(one.error, thrice.error)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(r_max=5.1), "half the smallest box width"),
        (dict(r_max=4.9, smooth=True), "half the smallest box width"),
        (dict(cell=None), "distance_density"),
        (dict(cell=torch.zeros(3, 3)), "zero volume"),
        (dict(r_max=-1.0), "r_max"),
        (dict(between=(0, 1)), "types"),
        (dict(between=(0, 5), types=torch.zeros(8)), "no particle has type 5"),
        (dict(pairs=[(0, 8)]), "pairs"),
        (dict(pairs=[(0, 1)], exclude=[(0, 1)]), "no pairs are left"),
        (dict(exclude=[(0, 99)]), "exclude"),
    ],
)
def test_what_cannot_be_counted_is_refused(change: dict, word: str) -> None:
    x, cell = gas(2, 8, 10.0)
    arguments = dict(cell=cell, r_max=4.0, bins=10) | change
    with pytest.raises(ValueError, match=word):
        rdf(x, arguments.pop("cell"), **arguments)


def test_no_frames_and_broken_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        rdf(torch.full((2, 5, 3), torch.nan), torch.eye(3), r_max=0.1)
    with pytest.raises(ValueError, match="at least one frame"):
        rdf(torch.zeros(0, 5, 3), torch.eye(3), r_max=0.1)
