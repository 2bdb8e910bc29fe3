"""Neighbour lists of the frames that a model is trained on: made once, kept small, put together for every batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mlmd.neighbors.pairs import LazyPairs, Pairs
from mlmd.neighbors.search import neighbors
from mlmd.system import System

LIMIT = 2**29  # bytes of all lists together


class HalfPairs(LazyPairs):
    """``Pairs`` that are known as ``half``; both directions are written out when somebody asks for them."""

    def __init__(self, half: Pairs):
        self.__dict__["half"] = half

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        half = self.half
        index = torch.cat([half.index, half.index.flip(0)], 1)
        shift = torch.cat([half.shift, -half.shift])
        order = torch.arange(index.shape[1], device=index.device)
        for key in (*shift.T.flip(0), index[1], index[0]):  # stable sorts, the least important key first
            order = order[torch.argsort(key[order], stable=True)]
        return index[:, order], shift[order]

    def __len__(self) -> int:
        return 2 * len(self.half)

    def where(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> Pairs:
        """The pairs (i, j) for which the symmetric ``wanted(i, j)`` (P,) is true."""
        return HalfPairs(self.half.where(wanted))


class _Frame(NamedTuple):
    """The half list of one frame: its pairs (2, P) and shift (P, 3), in the smallest integers that hold them."""

    pairs: Tensor
    shift: Tensor

    @property
    def bytes(self) -> int:
        return self.pairs.nbytes + self.shift.nbytes


class KeptLists:
    """The pairs within a cutoff of the frames of a trajectory, each found when it is first asked for.

    A pair takes 7 bytes (11 in frames of over 32 767 particles). Beyond ``limit`` bytes in all, further frames are searched every
    time. Lists, their order included, are those of :func:`neighbors` for the same batch, so that sums over them are the same bits.

    Args:
        cutoff: in A. limit: bytes of all lists together.

    Raises:
        ValueError: if the limit is negative.
    """

    def __init__(self, cutoff: float, limit: int = LIMIT):
        if limit < 0:
            raise ValueError(f"limit={limit}: give the bytes that lists may take, 0 to keep none")
        self.cutoff, self.limit, self.bytes = cutoff, limit, 0
        self._frames: dict[int, _Frame] = {}

    def __len__(self) -> int:
        """Number of frames whose list is kept."""
        return len(self._frames)

    def __call__(self, frames: Tensor, system: System) -> Pairs:
        """The list of a batch ``system`` whose S systems are the frames with these numbers (S,), all equally large.

        Raises:
            ValueError: if there is not one number per system.
        """
        numbers = frames.tolist()
        if len(numbers) != system.n_systems or system.size is None:
            raise ValueError(
                f"frames: {len(numbers)} numbers for {system.n_systems} systems: give one for each of equally large ones"
            )
        missing = [k for k, number in enumerate(numbers) if number not in self._frames]
        if missing and self.bytes >= self.limit:
            return neighbors(system, self.cutoff)
        found = self._found(missing, system) if missing else {}
        for k, frame in found.items():
            if self.bytes + frame.bytes <= self.limit and numbers[k] not in self._frames:
                self._frames[numbers[k]] = frame
                self.bytes += frame.bytes
        return _joined([found[k] if k in found else self._frames[number] for k, number in enumerate(numbers)], system.size)

    def _found(self, systems: list[int], batch: System) -> dict[int, _Frame]:
        part = batch if len(systems) == batch.n_systems else batch.select(systems)
        half, n = neighbors(part, self.cutoff).half, part.size
        assert n is not None
        bounds = torch.searchsorted(
            half.index[0].contiguous(), n * torch.arange(len(systems) + 1, device=half.index.device)
        ).tolist()
        out = {}
        for k, (own, start, end) in enumerate(zip(systems, bounds, bounds[1:])):
            out[own] = _Frame(_small(half.index[:, start:end] - k * n, n), _small(half.shift[start:end]))
        return out


def _small(values: Tensor, largest: int | None = None) -> Tensor:
    """The same integers in the smallest type that has room."""
    if largest is None:
        largest = int(values.abs().max()) if len(values) else 0
        if largest < 2**7:
            return values.to(torch.int8)
    return values.to(torch.int16 if largest < 2**15 else torch.int32)


def _joined(frames: list[_Frame], n: int) -> HalfPairs:
    """The lists of frames of n particles as the list of their batch."""
    index = torch.cat([f.pairs for f in frames], 1).long()
    counts = torch.tensor([f.pairs.shape[1] for f in frames], device=index.device)
    offset = torch.repeat_interleave(n * torch.arange(len(frames), device=index.device), counts)
    return HalfPairs(Pairs(index + offset, torch.cat([f.shift for f in frames]).long()))
