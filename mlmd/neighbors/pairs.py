"""``Pairs``: which particles are near, as integers only; distances are recomputed from the positions under autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from mlmd.system import System

if TYPE_CHECKING:
    from mlmd.neighbors.rows import Rows


@dataclass(frozen=True, eq=False)
class Pairs:
    """Both directions of every pair within a cutoff, sorted by receiver.

    index (2, P): receiver i and sender j. shift (P, 3): the image of j that is meant, in lattice vectors.
    """

    index: Int[Tensor, "2 P"]
    shift: Int[Tensor, "P 3"]

    def __len__(self) -> int:
        return self.index.shape[1]

    def vectors(self, system: System) -> Tensor:
        """(P, 3) from i to the image of j: x_j + shift . cell - x_i."""
        i, j = self.index
        d = system.positions.index_select(0, j) - system.positions.index_select(0, i)
        if not torch.compiler.is_compiling() and not system.periodic:
            return d
        shift = self.shift.to(d.dtype)
        if system.n_systems == 1:
            return d + shift @ system.cell[0]
        return d + torch.einsum("pi,pij->pj", shift, system.cell[system.batch[i]])

    def distances(self, system: System) -> Tensor:
        """(P,) distances, with derivatives 0 instead of NaN for coinciding particles."""
        return length(self.vectors(system))

    @cached_property
    def half(self) -> Pairs:
        """Every pair once (receiver < sender, or the image on the positive side of a particle and itself); made once per list."""
        i, j = self.index
        a, b, c = self.shift.unbind(1)
        positive = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))
        once = (i < j) | ((i == j) & positive)
        return Pairs(self.index[:, once], self.shift[once])

    @cached_property
    def rows(self) -> Rows:
        """The list in the form that compiled loops read; made once per list, on the CPU."""
        from mlmd.neighbors.rows import rows_of

        return rows_of(self)

    def where(self, wanted: Callable[[Tensor, Tensor], Tensor]) -> Pairs:
        """The pairs (i, j) for which the symmetric ``wanted(i, j)``, (P,) bool of two (P,), is true."""
        keep = wanted(self.index[0], self.index[1])
        return Pairs(self.index[:, keep], self.shift[keep])

    def unordered(self) -> tuple[Pairs, float]:
        """A list to sum a symmetric function of pairs over, and the weight of its entries.

        That is ``half`` and 1; inside ``torch.compile``, where a length that depends on data breaks the graph, all and 1/2.
        """
        return (self, 0.5) if torch.compiler.is_compiling() else (self.half, 1.0)


class LazyPairs(Pairs):
    """``Pairs`` of which another form is known: a subclass writes out both directions, in ``_both``, when somebody asks for them."""

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @cached_property
    def index(self) -> Tensor:  # type: ignore[override]
        """(2, P) receiver and sender."""
        return self._both[0]

    @cached_property
    def shift(self) -> Tensor:  # type: ignore[override]
        """(P, 3) image of the sender, in lattice vectors."""
        return self._both[1]


def length(vectors: Tensor) -> Tensor:
    """Norm over the last axis, twice differentiable everywhere: derivatives are 0 where the vector vanishes."""
    squared = (vectors * vectors).sum(-1)
    apart = ~(squared <= 1e-20)  # NaN counts as apart and stays NaN
    return torch.where(apart, squared, torch.ones_like(squared)).sqrt() * apart
