"""Lists that are kept are those that would be made."""

import pytest
import torch
from torch import Tensor

from mlmd.neighbors import KeptPairs, neighbors
from mlmd.system import System


def boxes(count: int, n: int = 20) -> System:
    """Random points in triclinic cells of different size, unwrapped by up to two cells."""
    generator = torch.Generator().manual_seed(3)
    out = []
    for k in range(count):
        cell = (9.0 + 0.3 * k) * torch.eye(3) + torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0.5, -1.0, 0]])
        s = 5 * torch.rand(n, 3, generator=generator) - 2
        out.append(System.single(s @ cell, cell=cell))
    return System.stack(out)


def as_set(pairs: object) -> set[tuple[int, ...]]:
    return {tuple(row) for row in torch.cat([pairs.index.T, pairs.shift], 1).tolist()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4, 5, 6], [5], [6, 0, 3, 3]])
def test_a_batch_of_kept_lists_is_the_list_of_the_batch(chosen: list[int]):
    every = boxes(7)

    def make(index: Tensor) -> System:
        return every.select(index)

    kept = KeptPairs.over(make, 7, cutoff=4.0, chunk=3)
    assert len(kept) == 7
    batch = every.select(chosen)
    got, wanted = kept.batch(torch.tensor(chosen)), neighbors(batch, 4.0)
    assert len(got) == len(wanted)
    assert as_set(got) == as_set(wanted)
    assert (got.index[0].diff() >= 0).all()  # sorted by receiver
    assert torch.allclose(got.distances(batch).sort().values, wanted.distances(batch).sort().values)


def test_systems_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="unequal size"):
        KeptPairs([boxes(1, 4), boxes(1, 5)], 4.0)
    with pytest.raises(ValueError, match="empty"):
        KeptPairs([], 4.0)
