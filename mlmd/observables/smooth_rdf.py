"""The smoothed g(r) of every snapshot by itself: what methods need that weigh snapshots differently."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mlmd.neighbors import Pairs, neighbors
from mlmd.observables.blocks import Array
from mlmd.observables.rdf import _grids, _kernel
from mlmd.segment import segment_sum
from mlmd.system import System


@dataclass(frozen=True, eq=False)
class SmoothRDF:
    r"""g(r) of every snapshot, each distance spread over a Gaussian one bin wide, as is the ideal gas that it is divided by:

    .. math:: g_b=\frac{V}{n_{pairs}}\,\frac{\sum_{i<j}K(r_b-r_{ij})}{\int4\pi r^2K(r_b-r)\,dr}

    Its mean over equal boxes is that of :func:`mlmd.observables.rdf` with ``smooth=True``. Thaler and Zavadlav, Nat. Commun. 12, 6884
    (2021) count N^2/2 pairs, which makes their g smaller by 1/N.

    Args:
        r_max, r_min: range of the bins in A; four bins beyond r_max are looked at too. bins: B.
        between: the two types whose pairs are counted; default: all pairs.

    Raises:
        ValueError: an empty range or fewer than one bin.
    """

    r_max: float
    bins: int = 300
    r_min: float = 0.0
    between: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _grids(self.r_min, self.r_max, self.bins, smooth=True)

    @property
    def grid(self) -> Tensor:
        """(B,) centres of the bins in A."""
        edges = torch.from_numpy(self._edges[0])
        return (edges[1:] + edges[:-1]) / 2

    @cached_property
    def _edges(self) -> tuple[Array, Array]:
        return _grids(self.r_min, self.r_max, self.bins, smooth=True)

    @cached_property
    def _weights(self) -> Tensor:
        """(fine bins, B): kernel over ideal gas of density 1."""
        edges, fine = self._edges
        kernel = torch.from_numpy(_kernel(edges, fine))
        shells = torch.from_numpy(4 / 3 * torch.pi * (fine[1:] ** 3 - fine[:-1] ** 3))
        return (kernel / (kernel @ shells)[:, None]).T

    @torch.no_grad()
    def __call__(self, system: System) -> Tensor:
        """(S, B), in double precision.

        Raises:
            ValueError: a system without a volume or without pairs of these types.
        """
        volume = torch.linalg.det(system.cell.double()).abs()
        number = self._pairs_of(system)
        if not bool(((volume > 0) & (number > 0)).all()):
            raise ValueError(f"system: g(r) needs a periodic box and at least one pair of the types {self.between} in each")
        fine = self._edges[1]
        count = len(fine) - 1
        half = self._wanted(neighbors(system, float(fine[-1])), system).half
        place = (half.distances(system).double() - fine[0]) * (count / (fine[-1] - fine[0]))
        inside = (place >= 0) & (place < count)
        flat = system.batch[half.index[0]][inside] * count + place[inside].long()
        histogram = torch.bincount(flat, minlength=system.n_systems * count).double().reshape(-1, count)
        return (volume / number)[:, None] * (histogram @ self._weights.to(histogram.device))

    def _wanted(self, pairs: Pairs, system: System) -> Pairs:
        if self.between is None:
            return pairs
        (a, b), t = self.between, system.types
        return pairs.where(lambda i, j: ((t[i] == a) & (t[j] == b)) | ((t[i] == b) & (t[j] == a)))

    def _pairs_of(self, system: System) -> Tensor:
        """(S,) number of pairs."""

        def counted(chosen: Tensor) -> Tensor:
            return segment_sum(chosen.double(), system.batch, system.n_systems)

        if self.between is None or self.between[0] == self.between[1]:
            n = counted(torch.ones_like(system.types) if self.between is None else system.types == self.between[0])
            return n * (n - 1) / 2
        return counted(system.types == self.between[0]) * counted(system.types == self.between[1])
