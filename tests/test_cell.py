"""Cells: widths, images and whole molecules, against geometry done by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mlmd import cell as C

TRICLINIC = torch.tensor([[9.0, 0.0, 0.0], [2.5, 8.5, 0.0], [-1.5, 2.0, 9.5]], dtype=torch.float64)


def nearest_by_hand(d: Tensor, cell: Tensor, reach: int = 3) -> Tensor:
    """Shortest of the images of one displacement."""
    images = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=3)), dtype=cell.dtype)
    all_of_them = d + images @ cell
    return all_of_them[all_of_them.norm(dim=-1).argmin()]


def test_widths_of_a_brick_are_its_edges_and_of_a_sheared_one_are_shorter() -> None:
    assert C.widths(torch.diag(torch.tensor([3.0, 4.0, 5.0]))).tolist() == pytest.approx([3.0, 4.0, 5.0])
    sheared = torch.tensor([[4.0, 0, 0], [4.0, 4.0, 0], [0, 0, 4.0]])
    assert C.widths(sheared).tolist() == pytest.approx([8**0.5, 4.0, 4.0])
    assert torch.isinf(C.widths(torch.zeros(3, 3))).all()


def test_wrapping_moves_by_lattice_vectors_into_the_cell() -> None:
    x = 40 * torch.randn(50, 3, dtype=torch.float64)
    wrapped = C.wrap(x, TRICLINIC)
    s = C.fractional(wrapped, TRICLINIC)
    assert bool((s > -1e-12).all() & (s < 1 + 1e-12).all())
    moves = C.fractional(x - wrapped, TRICLINIC)
    torch.testing.assert_close(moves, moves.round())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_minimum_image_is_the_shortest_image_within_half_the_width(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(3, generator=generator, dtype=torch.float64)
    short = direction / direction.norm() * 0.499 * C.widths(TRICLINIC).min()
    far = short + torch.randint(-3, 4, (3,), generator=generator).double() @ TRICLINIC
    image = C.minimum_image(far[None], TRICLINIC)[0]
    torch.testing.assert_close(image, short)
    torch.testing.assert_close(image, nearest_by_hand(short, TRICLINIC))


def test_a_ring_cut_by_wrapping_is_made_whole_again() -> None:
    angle = torch.arange(6, dtype=torch.float64) * torch.pi / 3
    ring = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1) + torch.tensor([0.2, 0.1, 0.2])
    frames = torch.stack([ring, ring + 4.0])
    cell = TRICLINIC.expand(2, 3, 3)
    cut = C.wrap(frames, cell)
    assert not torch.allclose(cut[0] - cut[0, :1], ring - ring[:1])
    bonds = [(k, (k + 1) % 6) for k in range(6)]
    whole = C.make_whole(cut, cell, bonds)
    torch.testing.assert_close(whole - whole[:, :1], frames - frames[:, :1])
    torch.testing.assert_close(whole[:, 0], cut[:, 0])


def test_molecules_without_bonds_between_them_stay_where_they_are() -> None:
    x = torch.tensor([[[8.9, 0, 0], [0.4, 0, 0], [5.0, 0, 0], [5.5, 8.4, 0]]], dtype=torch.float64)
    whole = C.make_whole(x, torch.diag(torch.full((3,), 9.0, dtype=torch.float64))[None], [(0, 1), (2, 3)])
    assert whole[0, :, 0].tolist() == pytest.approx([8.9, 9.4, 5.0, 5.5])
    assert whole[0, :, 1].tolist() == pytest.approx([0, 0, 0, -0.6])


def test_the_spanning_tree_reaches_every_bonded_atom_once() -> None:
    edges = C.spanning_tree(7, [(0, 1), (1, 2), (2, 0), (5, 4)])
    assert sorted(child for _, child in edges) == [1, 2, 5]
    assert C.spanning_tree(3, []) == []


def test_directions_without_a_period_get_perpendicular_unit_vectors() -> None:
    cell = torch.stack([TRICLINIC, TRICLINIC, TRICLINIC * torch.tensor([[1.0], [1.0], [0.0]])])
    pbc = torch.tensor([[True, False, False], [True, True, False], [True, True, False]])
    for full, flags in zip(C.completed(cell, pbc), pbc):
        for k in torch.nonzero(~flags).flatten():
            assert float(full[k].norm()) == pytest.approx(1.0)
            others = [m for m in range(3) if m != int(k)]
            assert float((full[others] @ full[k]).abs().max()) == pytest.approx(0.0, abs=1e-12)
    widths = C.periodic_widths(cell, pbc)
    assert float(widths[0, 0]) == pytest.approx(9.0)
    assert float(widths[1, 0]) == pytest.approx(float(widths[2, 0]))
    assert bool(torch.isinf(widths[~pbc]).all())


def test_a_cell_without_volume_is_refused_where_it_is_used() -> None:
    flat = torch.diag(torch.tensor([5.0, 5.0, 0.0]))
    with pytest.raises(ValueError, match="zero volume"):
        C.wrap(torch.rand(2, 3), flat)
    with pytest.raises(ValueError, match="zero volume"):
        C.check_cutoff(flat[None], torch.ones(1, 3, dtype=torch.bool), 1.0)


def test_sites_of_the_fcc_lattice_have_twelve_nearest_neighbours():
    """Distance a / sqrt(2) for the lattice constant a; none nearer."""
    x = C.face_centred_cubic(3, 9.0)
    assert x.shape == (108, 3)
    d = C.minimum_image((x[:, None] - x[None]).reshape(-1, 3), 9.0 * torch.eye(3)).norm(dim=-1).reshape(108, 108)
    d.fill_diagonal_(torch.inf)
    assert torch.allclose(d.min(1).values, torch.full((108,), 3.0 / 2**0.5))
    assert ((d < 1.01 * 3.0 / 2**0.5).sum(1) == 12).all()
    with pytest.raises(ValueError, match="cells=0"):
        C.face_centred_cubic(0, 9.0)
