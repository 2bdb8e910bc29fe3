"""Kept lists: those of a fresh search, bit for bit, within the memory that is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mlmd.forces import energy_forces
from mlmd.neighbors import KeptLists, Pairs, neighbors
from mlmd.neighbors.kept import HalfPairs
from mlmd.nn.schnet import SchNet
from mlmd.system import System

TRICLINIC = torch.tensor([[9.0, 0.0, 0.0], [2.5, 8.5, 0.0], [-1.5, 2.0, 9.5]])
CUTOFF = 4.0


def trajectory(n: int = 30, frames: int = 6, periodic: bool = True) -> System:
    """Frames as one batch, some particles periods away from the cell."""
    generator = torch.Generator().manual_seed(0)
    x = 20.0 * torch.rand(frames, n, 3, generator=generator) if periodic else 8.0 * torch.rand(frames, n, 3, generator=generator)
    return System.single(x[0], cell=TRICLINIC if periodic else None).at(x)


def same(a: Pairs, b: Pairs) -> bool:
    return all(
        torch.equal(u, v)
        for u, v in ((a.index, b.index), (a.shift, b.shift), (a.half.index, b.half.index), (a.half.shift, b.half.shift))
    )


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "open"])
@pytest.mark.parametrize("limit", [2**20, 4000, 0], ids=["all kept", "some kept", "none kept"])
def test_batches_of_kept_lists_are_lists_made_anew(periodic: bool, limit: int) -> None:
    frames, lists = trajectory(periodic=periodic), KeptLists(CUTOFF, limit)
    for index in ([0, 3], [3, 1, 0], [5], [2, 2, 4], [0, 1, 2, 3, 4, 5], [5, 0]):
        batch = frames.select(index)
        assert same(lists(torch.tensor(index), batch), neighbors(batch, CUTOFF))
        assert lists.bytes <= limit
    assert {2**20: len(lists) == 6, 4000: 0 < len(lists) < 6, 0: len(lists) == 0}[limit]


def test_a_pair_takes_seven_bytes() -> None:
    frames, lists = trajectory(), KeptLists(CUTOFF)
    pairs = lists(torch.arange(6), frames)
    assert lists.bytes == 7 * len(pairs.half)


def test_particles_far_from_their_cell_keep_their_images() -> None:
    frames, lists = trajectory(), KeptLists(CUTOFF)
    x = frames.positions.clone()
    x[3] += 200 * TRICLINIC[0] - 40_000 * TRICLINIC[1]
    moved = replace(frames.to(torch.float64), positions=x.double())
    assert same(lists(torch.arange(6), moved), neighbors(moved, CUTOFF))
    assert int(neighbors(moved, CUTOFF).shift.abs().max()) > 2**15


def test_pairs_are_left_out_of_half_lists_as_of_whole_ones() -> None:
    pairs = neighbors(trajectory(), CUTOFF)
    assert same(HalfPairs(pairs.half).where(lambda i, j: (i + j) % 3 > 0), pairs.where(lambda i, j: (i + j) % 3 > 0))


def test_a_step_of_training_is_the_same_bits() -> None:
    frames, index, lists = trajectory(), torch.tensor([4, 1, 2]), KeptLists(CUTOFF)
    batch = frames.select(index)
    lists(torch.arange(6), frames)
    gradients = []
    for pairs in (neighbors(batch, CUTOFF), lists(index, batch)):
        torch.manual_seed(0)
        net = SchNet(CUTOFF, features=8, interactions=2, n_types=1)
        energy_forces(net, batch, pairs).forces.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_numbers_that_do_not_fit_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="2 numbers for 6 systems"):
        KeptLists(CUTOFF)(torch.tensor([0, 1]), trajectory())
    with pytest.raises(ValueError, match="limit=-1"):
        KeptLists(CUTOFF, -1)
