"""``Near``: the pairs of a list within the cutoff, for compiled loops."""

from __future__ import annotations

import torch

from mlmd.neighbors.pairs import Pairs
from mlmd.nn import kernels
from mlmd.system import System


class Near:
    """Every unordered pair within the cutoff once, on a CPU.

    index (3, P): particles i and j, and a row that tables use; vector (P, 3) from i to j; distance (P,), in A; the first ``count``
    entries are meant.

    Raises:
        ValueError: if the list names particles that are not in the system.
    """

    def __init__(self, system: System, pairs: Pairs, cutoff: float):
        half = pairs.half
        x, cell = system.positions.detach().contiguous(), system.cell.detach().contiguous()
        i, j = half.index.numpy()
        index, vector, distance = torch.empty(3, len(half), dtype=torch.long), x.new_empty(len(half), 3), x.new_empty(len(half))
        self.index, self.vector, self.distance = index.numpy(), vector.numpy(), distance.numpy()
        box = (half.shift.numpy(), cell.numpy(), system.batch.numpy(), system.periodic)
        self.count = kernels.near_pairs(x.numpy(), i, j, *box, cutoff, self.index, self.vector, self.distance)
        if self.count < 0:
            raise ValueError(f"pairs name particles beyond the {len(system)} of the system: make the list for this system")
