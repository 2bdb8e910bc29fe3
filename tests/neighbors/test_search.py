"""Neighbour lists: every way to make one agrees with counting all images by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlmd.neighbors import Pairs, cell_pairs, dense_pairs, grid_pairs, neighbors, vesin_pairs
from mlmd.neighbors import search as search_module
from mlmd.neighbors.rows import RowPairs
from mlmd.system import System

TRICLINIC = [[9.0, 0.0, 0.0], [2.5, 8.5, 0.0], [-1.5, 2.0, 9.5]]
BUILDERS = pytest.mark.parametrize("build", [dense_pairs, vesin_pairs, cell_pairs, grid_pairs, neighbors])


def by_hand(system: System, cutoff: float, images: int = 3) -> set[tuple[int, ...]]:
    """(i, j, shift) of all pairs within the cutoff, from a loop over lattice images of wrapped particles of each system."""
    found: set[tuple[int, ...]] = set()
    for s in range(system.n_systems):
        atoms = torch.nonzero(system.batch == s).flatten().numpy()
        x, cell, pbc = system.positions[atoms].double().numpy(), system.cell[s].double().numpy(), system.pbc[s].numpy()
        home = np.zeros(x.shape, dtype=int)
        if pbc.any():
            inverse = np.linalg.pinv(cell[pbc])
            home[:, pbc] = np.floor(x @ inverse).astype(int)
        wrapped = x - home @ np.where(pbc[:, None], cell, 0)
        for image in itertools.product(*[range(-images, images + 1) if p else (0,) for p in pbc]):
            d = np.linalg.norm(wrapped[None] + np.array(image) @ np.where(pbc[:, None], cell, 0) - wrapped[:, None], axis=-1)
            for i, j in zip(*np.nonzero(d < cutoff)):
                if i != j or any(image):
                    shift = np.array(image) - home[j] + home[i]
                    found.add((int(atoms[i]), int(atoms[j]), *map(int, shift)))
    return found


def as_set(pairs: Pairs) -> set[tuple[int, ...]]:
    rows = torch.cat([pairs.index, pairs.shift.T]).T.tolist()
    assert len(rows) == len({tuple(r) for r in rows}), "a pair is listed twice"
    return {tuple(r) for r in rows}


def box(n: int = 30, cell: object = None, pbc: object = None, seed: int = 0, spread: float = 1.0) -> System:
    generator = torch.Generator().manual_seed(seed)
    x = spread * 9.0 * torch.rand(n, 3, generator=generator, dtype=torch.float64)
    return System.single(x, cell=None if cell is None else torch.tensor(cell, dtype=torch.float64), pbc=pbc)


CASES = {
    "open": box(),
    "cube": box(cell=9.0),
    "triclinic": box(cell=TRICLINIC),
    "triclinic, unwrapped positions": box(cell=TRICLINIC, spread=5.0),
    "slab": box(cell=TRICLINIC, pbc=[True, True, False]),
    "slab without a third vector": box(cell=[*TRICLINIC[:2], [0.0, 0.0, 0.0]], pbc=[True, True, False]),
    "rod along y, named first": box(cell=[[0.0, 9.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], pbc=[True, False, False]),
    "one particle": box(1),
    "batch of equal boxes": System.stack([box(cell=TRICLINIC, seed=s) for s in range(3)]),
    "batch of unequal systems": System.stack(
        [box(12, 9.0), box(1), box(25, TRICLINIC, seed=1), box(7, TRICLINIC, [True, False, True])]
    ),
}


@BUILDERS
@pytest.mark.parametrize("name", CASES)
def test_lists_agree_with_counting_by_hand(name: str, build: object) -> None:
    system = CASES[name]
    assert as_set(build(system, 3.9)) == by_hand(system, 3.9)  # type: ignore[operator]


@BUILDERS
@pytest.mark.parametrize("name", CASES)
def test_lists_are_sorted_by_receiver_and_hold_both_directions(name: str, build: object) -> None:
    pairs = build(CASES[name], 3.9)  # type: ignore[operator]
    assert bool((pairs.index[0].diff() >= 0).all())
    listed = as_set(pairs)
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in listed} == listed


@pytest.mark.parametrize("cutoff", [3.9, 7.0])
@pytest.mark.parametrize("name", CASES)
def test_compiled_cells_list_pairs_in_one_order_whatever_the_cells(name: str, cutoff: float) -> None:
    """Sorted by receiver, sender and image: forces summed over a new list are those over the old one, bit for bit."""
    pairs = cell_pairs(CASES[name], cutoff)
    listed = torch.cat([pairs.index, pairs.shift.T]).T.tolist()
    assert listed == sorted(listed)


@pytest.mark.parametrize("name", CASES)
def test_the_half_list_holds_every_pair_once(name: str) -> None:
    pairs = neighbors(CASES[name], 3.9)
    once = as_set(pairs.half)
    turned = {(j, i, -a, -b, -c) for i, j, a, b, c in once}
    assert not once & turned
    assert once | turned == as_set(pairs)


@pytest.mark.parametrize("cutoff", [4.0, 7.0])
@pytest.mark.parametrize("pbc", [[True] * 3, [True, False, True]], ids=["bulk", "slab"])
def test_narrow_cells_list_every_image_also_of_a_particle_and_itself(cutoff: float, pbc: list[bool]) -> None:
    cell = [[5.0, 0.0, 0.0], [1.0, 5.5, 0.0], [-1.0, 0.7, 6.0]]
    system = box(6, cell, pbc)
    pairs = neighbors(system, cutoff)
    listed = by_hand(system, cutoff)
    assert all(as_set(build(system, cutoff)) == listed for build in (neighbors, cell_pairs, grid_pairs))
    assert (0, 0) in {row[:2] for row in listed} or cutoff < 5
    assert len(pairs.half) * 2 == len(pairs)


def test_dense_list_refuses_a_cutoff_beyond_half_the_width() -> None:
    dense_pairs(box(cell=9.0), 4.5)
    with pytest.raises(ValueError, match=r"cutoff=4.6 A is more than half the smallest box width \(9 A\)"):
        dense_pairs(box(cell=9.0), 4.6)
    slab = box(cell=[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 0]], pbc=[True, True, False])
    with pytest.raises(ValueError, match="half the smallest box width"):
        dense_pairs(slab, 4.6)


@BUILDERS
@pytest.mark.parametrize("pbc", [[True] * 3, [True, True, False]])
def test_a_box_of_zero_volume_is_refused(build: object, pbc: list[bool]) -> None:
    flat = replace(box(cell=9.0, pbc=pbc), cell=torch.diag(torch.tensor([9.0, 0.0, 9.0], dtype=torch.float64))[None])
    with pytest.raises(ValueError, match="cell has zero volume"):
        build(flat, 3.0)  # type: ignore[operator]


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cutoff_that_is_not_positive_is_refused(cutoff: float) -> None:
    with pytest.raises(ValueError, match="cutoff="):
        neighbors(box(), cutoff)


@pytest.mark.parametrize("n", [10, 600])
def test_positions_that_are_not_finite_are_refused_by_particle(n: int) -> None:
    system = box(n)
    x = system.positions.clone()
    x[4, 1] = torch.nan
    with pytest.raises(ValueError, match="first: particle 4"):
        neighbors(system.at(x), 3.0)


def test_many_replicas_are_searched_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System.stack([box(cell=TRICLINIC, seed=s) for s in range(7)])
    whole = dense_pairs(system, 3.9)
    monkeypatch.setattr(search_module, "DENSE_BLOCK", 2000)
    parts = dense_pairs(system, 3.9)
    assert torch.equal(whole.index, parts.index)
    assert torch.equal(whole.shift, parts.shift)


def test_a_clump_with_more_neighbours_than_expected_is_listed_in_full() -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    system = System.single(x, cell=40.0)
    pairs = cell_pairs(system, 8.0)
    assert len(pairs) == len(dense_pairs(system, 8.0)) > 64 * 2 * 300


@pytest.mark.parametrize("build", [cell_pairs, dense_pairs])
@pytest.mark.parametrize("name", CASES)
def test_rows_hold_the_vectors_of_the_half_list(name: str, build: Callable[[System, float], Pairs]) -> None:
    system = CASES[name]
    pairs = build(system, 3.9)
    rows, half = pairs.rows, pairs.half
    cell = system.cell.double().numpy()[system.batch.numpy()][rows.parent.astype(int)]
    x = system.positions.numpy()[rows.parent.astype(int)] + np.einsum(
        "ei,eij->ej", rows.image, cell * (system.pbc.numpy()[system.batch.numpy()][rows.parent.astype(int)][..., None])
    )
    r = np.linalg.norm(x[rows.sender] - x[rows.receiver], axis=1)
    np.testing.assert_allclose(np.sort(r), np.sort(half.distances(system).numpy()), atol=1e-12)
    assert np.array_equal(rows.parent[: len(rows.start) - 1], np.arange(len(rows.start) - 1))


@pytest.mark.parametrize("build", [cell_pairs, dense_pairs])
def test_pairs_can_be_left_out_by_particle_in_either_form(build: Callable[[System, float], Pairs]) -> None:
    system = CASES["triclinic, unwrapped positions"]
    kept = build(system, 3.9).where(lambda i, j: (i + j) % 3 > 0)
    assert as_set(kept) == {row for row in by_hand(system, 3.9) if (row[0] + row[1]) % 3}


@pytest.mark.parametrize("build", [cell_pairs, dense_pairs])
def test_pairs_of_a_molecule_are_left_out_by_a_table(build: Callable[[System, float], Pairs]) -> None:
    """Ten molecules of three: the second particle is not seen by the others, in no image."""
    system, excluded = CASES["triclinic, unwrapped positions"], torch.zeros(3, 3, dtype=torch.bool)
    excluded[1, :], excluded[:, 1] = True, True
    whole = build(system, 7.0) if build is cell_pairs else build(system, 3.9)
    kept = RowPairs(whole.rows).without(excluded)
    expected = {row for row in as_set(whole) if row[0] // 3 != row[1] // 3 or not excluded[row[0] % 3, row[1] % 3]}
    assert as_set(kept) == expected
    assert len(RowPairs(kept.rows.where(lambda i, j: i + j > -1))) == len(kept) < len(whole)


def test_large_systems_use_the_cell_list_and_agree_with_the_dense_one() -> None:
    x = 25.0 * torch.rand(700, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    system = System.single(x, cell=25.0)
    assert as_set(neighbors(system, 4.0)) == as_set(dense_pairs(system, 4.0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cutoff=st.floats(1.0, 4.0), tilt=st.floats(-0.45, 0.45), n=st.integers(1, 15))
def test_distances_are_those_of_the_nearest_images_for_any_triclinic_cell(seed: int, cutoff: float, tilt: float, n: int) -> None:
    cell = [[9.0, 0.0, 0.0], [9.0 * tilt, 9.5, 0.0], [4.0 * tilt, -5.0 * tilt, 9.0]]
    system = box(n, cell, seed=seed, spread=3.0)
    pairs = neighbors(system, cutoff)
    listed = by_hand(system, cutoff, images=2)
    assert all(as_set(build(system, cutoff)) == listed for build in (neighbors, cell_pairs, grid_pairs, vesin_pairs))
    assert bool((pairs.distances(system) < cutoff).all())


def test_single_precision_lists_the_same_pairs_away_from_the_cutoff() -> None:
    system = box(cell=TRICLINIC)
    r = vesin_pairs(system, 6.0).distances(system)
    gap = torch.sort(r).values
    cutoff = float(gap[gap < 3.9].max()) + 1e-3
    assert as_set(neighbors(system.to(torch.float32), cutoff)) == as_set(neighbors(system, cutoff))


def test_vectors_point_from_receiver_to_the_image_of_the_sender() -> None:
    system = System.single(torch.tensor([[0.5, 0, 0], [8.7, 0, 0]], dtype=torch.float64), cell=9.0)
    pairs = neighbors(system, 2.0)
    assert pairs.index.tolist() == [[0, 1], [1, 0]]
    expected: Tensor = torch.tensor([[-0.8, 0, 0], [0.8, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(pairs.vectors(system), expected)
    many = System.stack([system, system])
    torch.testing.assert_close(neighbors(many, 2.0).vectors(many), expected.repeat(2, 1))
