"""``Edges``: the pairs of a message-passing network with their geometry, each unordered pair once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlmd.neighbors.pairs import Pairs, length
from mlmd.system import System


class Edges(NamedTuple):
    """i, j (E,) particles; vector (E, 3) from i to j and r (E,) in A; n particles; whether every pair is here only once."""

    i: Tensor
    j: Tensor
    vector: Tensor
    r: Tensor
    n: int
    once: bool

    def sum_messages(self, weights: Tensor, features: Tensor) -> Tensor:
        r""":math:`m_i=\sum_jW_{ij}\odot h_j` with symmetric weights (E, F) and features (n, F); (n, F)."""
        out = torch.zeros_like(features).index_add(0, self.i, weights * features.index_select(0, self.j))
        return out.index_add(0, self.j, weights * features.index_select(0, self.i)) if self.once else out


def edges_within(system: System, pairs: Pairs, cutoff: float) -> Edges:
    """Edges of ``system`` shorter than ``cutoff``; inside ``torch.compile`` all of the list in both directions."""
    if torch.compiler.is_compiling():
        vector = pairs.vectors(system)
        i, j = pairs.index
        return Edges(i, j, vector, length(vector), len(system), once=False)
    half = pairs.half
    vector = half.vectors(system)
    r = length(vector)
    i, j = half.index
    near = torch.nonzero(~(r.detach() >= cutoff)).flatten()  # NaN stays in, so that an exploded run is noticed
    if len(near) < len(r):
        i, j, vector, r = (t.index_select(0, near) for t in (i, j, vector, r))
    return Edges(i, j, vector, r, len(system), once=True)
