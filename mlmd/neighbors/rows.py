"""``Rows``: a neighbour list in the form that compiled loops read: every pair once, images as particles of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlmd.jit import jit
from mlmd.lanes import LANES
from mlmd.neighbors.pairs import LazyPairs, Pairs

Integers = NDArray[np.int32]
Numbers = NDArray[np.uint32]  # of particles; compiled loops need not ask whether such an index counts from the end


@dataclass(frozen=True, eq=False)
class Rows:
    """Every unordered pair once, in rows by receiver, over the N particles followed by those of their images that are needed.

    start (N + 1,): row i is ``start[i]:start[i + 1]``. sender (H,): the other end, a particle or an image. parent (E,): the particle
    of each (the first N are themselves). image (E, 3): lattice vectors that its position is away from that of its parent; not
    zero for particles outside of their cell. Vector of a pair: x[parent[k]] + image[k] . cell - (x[i] + image[i] . cell).
    """

    start: Integers
    sender: Numbers
    parent: Numbers
    image: Integers

    def __len__(self) -> int:
        return len(self.sender)

    @cached_property
    def shifted(self) -> bool:
        """Whether any image is away from its parent."""
        return bool(self.image.any())

    @cached_property
    def receiver(self) -> Integers:
        """(H,) receiver of every pair."""
        return np.repeat(np.arange(len(self.start) - 1, dtype=np.int32), np.diff(self.start))

    @property
    def n_rows(self) -> int:
        """Particles up to the last that has a row: N, or fewer where the last ones have no pair."""
        return len(self.start) - 1

    @cached_property
    def blocks(self) -> tuple[Numbers, Numbers]:
        """The rows cut into blocks of ``LANES`` senders: receiver (B,) and sender (B LANES,); ends are filled up with the number E.

        So all pairs of a block have one receiver and a compiled loop over blocks has no branches.
        """
        own = np.arange(self.n_rows, dtype=np.int32)
        return _blocks(own, self.start.astype(np.int64), np.append(self.sender, np.zeros(LANES, np.uint32)), len(self.parent))

    def where(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> Rows:
        """The pairs (i, j) for which ``wanted(i, j)`` (P,), of receivers and senders, is true."""
        keep = _marked(wanted, self.receiver, self.parent[self.sender])
        return Rows(_counted(keep)[self.start].astype(np.int32), self.sender[keep], self.parent, self.image)

    def without(self, excluded: NDArray[np.bool_]) -> Rows:
        """The pairs that ``excluded`` (n, n) does not mark within molecules of n particles, one molecule after another."""
        own = np.arange(len(self.start) - 1, dtype=np.int32)
        bounds, left = _left(own, self.start.astype(np.int64), self.sender, self.parent, excluded)
        return Rows(bounds.astype(np.int32), left[: bounds[-1]], self.parent, self.image)


class FoundRows(Rows):
    """``Rows`` in the order in which a search went through space, which is that of their blocks; ``start`` and ``sender`` if asked for.

    number (N,): row k is that of this particle, ``found[bounds[k]:bounds[k + 1]]``; found is longer by ``LANES`` at least.
    """

    def __init__(self, number: Integers, bounds: NDArray[np.int64], found: Numbers, parent: Numbers, image: Integers):
        self.__dict__.update(parent=parent, image=image, _found=(number, bounds, found))

    _found: tuple[Integers, NDArray[np.int64], Numbers]

    def __len__(self) -> int:
        return int(self._found[1][-1])

    @property
    def n_rows(self) -> int:
        """All particles."""
        return len(self._found[0])

    @cached_property
    def _ordered(self) -> tuple[Integers, Numbers]:
        return _in_order(*self._found)

    @cached_property
    def start(self) -> Integers:  # type: ignore[override]
        """(N + 1,) bounds of the rows by particle."""
        return self._ordered[0]

    @cached_property
    def sender(self) -> Numbers:  # type: ignore[override]
        """(H,) the other end of every pair."""
        return self._ordered[1]

    def where(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> FoundRows:
        """The pairs (i, j) for which ``wanted(i, j)`` (P,), of receivers and senders, is true."""
        number, bounds, found = self._found
        keep = _marked(wanted, np.repeat(number, np.diff(bounds)), self.parent[found[: len(self)]])
        left = np.append(found[: len(self)][keep], np.zeros(LANES, np.uint32))
        return FoundRows(number, _counted(keep)[bounds], left, self.parent, self.image)

    def without(self, excluded: NDArray[np.bool_]) -> FoundRows:
        """The pairs that ``excluded`` (n, n) does not mark within molecules of n particles, one molecule after another."""
        bounds, left = _left(*self._found, self.parent, excluded)
        return FoundRows(self._found[0], bounds, left, self.parent, self.image)

    @cached_property
    def blocks(self) -> tuple[Numbers, Numbers]:
        """Receivers and senders of the blocks, neighbours in space one after another."""
        return _blocks(*self._found, len(self.parent))


class RowPairs(LazyPairs):
    """``Pairs`` that were found as rows: both directions are written out when somebody asks for them."""

    def __init__(self, rows: Rows):
        self.__dict__["rows"] = rows

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        rows: Rows = self.rows
        index, shift = np.empty((2, 2 * len(rows)), np.int64), np.empty((2 * len(rows), 3), np.int64)
        _both_directions(rows.start, rows.sender, rows.parent, rows.image, index, shift)
        return torch.from_numpy(index), torch.from_numpy(shift)

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def where(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> Pairs:
        """The pairs (i, j) for which the symmetric ``wanted(i, j)`` (P,) is true."""
        return RowPairs(self.rows.where(wanted))

    def without(self, excluded: Tensor) -> Pairs:
        """The pairs that ``excluded`` (n, n) does not mark within molecules of n particles, one molecule after another."""
        return RowPairs(self.rows.without(excluded.numpy()))


def rows_of(pairs: Pairs) -> Rows:
    """The rows of any list on the CPU, from its integers alone."""
    half = pairs.half
    i, j = (v.numpy() for v in half.index)
    shift = half.shift.numpy()
    n = int(pairs.index.max()) + 1 if len(pairs) else 0
    start = np.searchsorted(i, np.arange(n + 1)).astype(np.int32)
    away = shift.any(1)
    sender, parent, image = j.astype(np.uint32), np.arange(n, dtype=np.uint32), np.zeros((n, 3), np.int32)
    if away.any():
        low, span = shift.min(0), np.ptp(shift, axis=0) + 1
        s = shift[away] - low
        key = ((s[:, 0] * span[1] + s[:, 1]) * span[2] + s[:, 2]) * n + j[away]
        _, first, number = np.unique(key, return_index=True, return_inverse=True)
        sender[away] = n + number
        parent = np.concatenate([parent, j[away][first].astype(np.uint32)])
        image = np.concatenate([image, shift[away][first].astype(np.int32)])
    return Rows(start, sender, parent, image)


def _marked(wanted: Callable[[Tensor, Tensor], Tensor], i: NDArray[Any], j: NDArray[Any]) -> NDArray[np.bool_]:
    return wanted(torch.from_numpy(i.astype(np.int64)), torch.from_numpy(j.astype(np.int64))).numpy()


def _counted(keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H + 1,) how many are kept before each pair."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])


def _blocks(number: Integers, bounds: NDArray[np.int64], sender: Numbers, nowhere: int) -> tuple[Numbers, Numbers]:
    lengths = np.diff(bounds)
    many = int(((lengths + LANES - 1) // LANES).sum())
    receivers, senders = np.empty(many, np.uint32), np.empty(many * LANES, np.uint32)
    _fill_blocks(number, bounds, sender, nowhere, receivers, senders)
    return receivers, senders


@jit
def _left(number, bounds, found, parent, excluded):
    """Bounds and senders of the rows without excluded pairs, and room for ``LANES`` more."""
    size, count = len(excluded), 0
    new, out = np.zeros(len(bounds), np.int64), np.zeros(bounds[-1] + LANES, np.uint32)
    for k in range(len(number)):
        first = np.int64(number[k]) // size * size
        row = excluded[np.int64(number[k]) - first]
        for p in range(bounds[k], bounds[k + 1]):
            other = np.int64(parent[found[p]]) - first
            out[count] = found[p]
            count += not (0 <= other < size and row[other])
        new[k + 1] = count
    return new, out


@jit
def _in_order(number, bounds, sender):
    """Row k of ``bounds`` (N + 1,), which is that of particle number[k], to the place of its particle."""
    n = len(number)
    start, out = np.zeros(n + 1, np.int32), np.empty(bounds[n], np.uint32)
    for k in range(n):
        start[number[k] + 1] = bounds[k + 1] - bounds[k]
    for i in range(n):
        start[i + 1] += start[i]
    for k in range(n):
        to = start[number[k]]
        out[to : to + bounds[k + 1] - bounds[k]] = sender[bounds[k] : bounds[k + 1]]
    return start, out


@jit
def _fill_blocks(number, bounds, sender, nowhere, receivers, senders):
    """Receivers of the blocks, and their senders, with ``nowhere`` in place of those that are missing."""
    m = 0
    for k in range(len(number)):
        for p in range(bounds[k], bounds[k + 1], LANES):
            receivers[m] = number[k]
            block, some = senders[m * LANES :], sender[p:]
            for lane in range(LANES):  # of a fixed length, so that it becomes a vector instruction; reads beyond the row
                block[lane] = some[lane]
            for lane in range(bounds[k + 1] - p, LANES):
                block[lane] = nowhere
            m += 1


@jit
def _both_directions(start, sender, parent, image, index, shift):
    """Write every pair twice, sorted by receiver, then sender, then image: index (2, 2 H) and shift (2 H, 3).

    Two counting sorts, by sender into a buffer and by receiver out of it. Sums over the list then do not depend on how it was made.
    """
    n, pairs = len(start) - 1, len(sender)
    place = np.zeros(n + 1, np.int64)
    for i in range(n):
        place[i + 1] += start[i + 1] - start[i]
        for p in range(start[i], start[i + 1]):
            place[parent[sender[p]] + 1] += 1
    for i in range(n):
        place[i + 1] += place[i]
    begin = place.copy()
    other, edge = np.empty(2 * pairs, np.int32), np.empty((2 * pairs, 2), np.uint32)
    for i in range(n):
        for p in range(start[i], start[i + 1]):
            k = sender[p]
            j = parent[k]
            a = place[j]
            place[j] += 1
            b = place[i]
            place[i] += 1
            other[a], edge[a, 0], edge[a, 1] = i, i, k
            other[b], edge[b, 0], edge[b, 1] = j, k, i
    place[:] = begin
    for j in range(n):
        for q in range(begin[j], begin[j + 1]):
            i, own, k = other[q], edge[q, 0], edge[q, 1]
            x, y, z = image[k, 0] - image[own, 0], image[k, 1] - image[own, 1], image[k, 2] - image[own, 2]
            a = place[i]
            place[i] += 1
            while a > begin[i] and index[1, a - 1] == j:  # further images of the same particle
                u, v, w = shift[a - 1, 0], shift[a - 1, 1], shift[a - 1, 2]
                if u < x or (u == x and (v < y or (v == y and w < z))):
                    break
                index[0, a], index[1, a] = i, j
                shift[a, 0], shift[a, 1], shift[a, 2] = u, v, w
                a -= 1
            index[0, a], index[1, a] = i, j
            shift[a, 0], shift[a, 1], shift[a, 2] = x, y, z
