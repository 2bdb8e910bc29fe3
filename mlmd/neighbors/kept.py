"""``KeptPairs``: the lists of training data, made once; a minibatch takes those of its systems."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mlmd.neighbors.pairs import Pairs
from mlmd.neighbors.search import neighbors
from mlmd.system import System


class KeptPairs:
    """Lists of K systems of n particles each, 11 bytes a pair, from which the list of any batch of them is put together.

    Args:
        systems: batches of systems, one after the other, all of n particles; their positions must not change afterwards.
        cutoff: in A, that of the potential.

    Raises:
        ValueError: no systems, systems of unequal size, or as :func:`neighbors`.
    """

    def __init__(self, systems: Iterable[System], cutoff: float):
        parts, sizes = [], set()
        for batch in systems:
            sizes.add(batch.size)
            parts.append(_local(batch, neighbors(batch, cutoff)))
        if not parts:
            raise ValueError("systems is empty: give at least one batch of systems")
        if None in sizes or len(sizes) > 1:
            raise ValueError("systems are of unequal size: keep lists of equal systems together, one KeptPairs for each size")
        self.size = int(sizes.pop() or 0)
        self.index = torch.cat([p[0] for p in parts], 1)
        self.shift = torch.cat([p[1] for p in parts])
        self.count = torch.cat([p[2] for p in parts])
        self.first = torch.cumsum(self.count, 0) - self.count

    def __len__(self) -> int:
        return len(self.count)

    def batch(self, systems: Tensor) -> Pairs:
        """The list of the systems (B,), in this order, as :func:`neighbors` would make it of that batch."""
        count = self.count[systems]
        ends = torch.cumsum(count, 0)
        place = torch.repeat_interleave(torch.arange(len(systems), device=count.device), count)
        row = torch.arange(len(place), device=count.device) - (ends - count)[place] + self.first[systems][place]
        return Pairs(self.index[:, row].long() + place * self.size, self.shift[row].long())

    @staticmethod
    def over(make: Callable[[Tensor], System], n_systems: int, cutoff: float, chunk: int = 1000) -> KeptPairs:
        """Of the systems 0 to n_systems - 1 that ``make(index)`` gives as batches; a chunk at a time bounds the memory."""
        return KeptPairs((make(index) for index in torch.arange(n_systems).split(chunk)), cutoff)


def _local(system: System, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Indices within the systems (2, P) in 32 bits, shifts (P, 3) in 8, and pairs per system (S,)."""
    n = system.size or 1
    of = pairs.index[0].div(n, rounding_mode="floor")
    if len(pairs) and int(pairs.shift.abs().max()) > 127:
        raise ValueError("particles lie more than 127 cells apart: wrap the positions into the cell first")
    return (pairs.index - of * n).int(), pairs.shift.to(torch.int8), torch.bincount(of, minlength=system.n_systems)
