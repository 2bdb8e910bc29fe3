"""``Pairs``: which particles are near, as integers only; distances are recomputed from the positions under autograd."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mlmd.system import System


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
        d = system.positions[j] - system.positions[i]
        if not system.periodic:
            return d
        cell = system.cell[system.batch[i]]
        return d + (self.shift.to(d.dtype)[:, None, :] @ cell)[:, 0]

    def distances(self, system: System) -> Tensor:
        """(P,) distances."""
        return self.vectors(system).norm(dim=-1)
