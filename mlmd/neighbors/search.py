"""Neighbour search: an all-pairs list in torch, an adapter to vesin's cell list, and the choice between all there are."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mlmd import jit
from mlmd.cell import check_cutoff, completed, fractional, periodic_widths
from mlmd.neighbors.cells import cell_pairs
from mlmd.neighbors.grid import grid_pairs
from mlmd.neighbors.pairs import Pairs
from mlmd.system import System

DENSE_LIMIT = 500  # particles per system; below it all pairs are faster than the cells of others
SMALL = 64  # particles in all; below it all pairs of open systems are as fast as compiled cells, and numba need not be imported
DENSE_BLOCK = 2_000_000  # pairs looked at in one go; bounds the memory of many replicas


def neighbors(system: System, cutoff: float) -> Pairs:
    """All pairs closer than ``cutoff``, by whatever is fastest.

    On a CPU with numba that are the cells of :func:`cell_pairs`, but for a few particles in the open. Else it is all pairs up to
    500 particles per system, and beyond that, or where a periodic system is narrower than twice the cutoff and several images
    of one particle count, cells: those of vesin on a CPU, of :func:`grid_pairs` on a GPU.

    Raises:
        ValueError: if cutoff is not positive, a periodic cell has no volume, or a position is not finite.
    """
    if not 0 < cutoff < float("inf"):
        raise ValueError(f"cutoff={cutoff}: must be positive and finite, in A")
    if not math.isfinite(float(system.positions.detach().sum())) and not bool((finite := torch.isfinite(system.positions)).all()):
        first = int(torch.nonzero(~finite.all(-1))[0])
        raise ValueError(f"positions are not finite (first: particle {first} of {len(system)}): remove or repair that system")
    if not system.positions.is_cuda and jit.available() and (len(system) > SMALL or system.periodic):
        return cell_pairs(system, cutoff)
    largest = system.size if system.size is not None else int(torch.bincount(system.batch).max())
    if largest <= DENSE_LIMIT and not _narrow(system, cutoff):
        return dense_pairs(system, cutoff)
    if system.positions.is_cuda:
        return grid_pairs(system, cutoff)
    return vesin_pairs(system, cutoff)


def _narrow(system: System, cutoff: float) -> bool:
    return system.periodic and bool((periodic_widths(system.cell, system.pbc) < 2 * cutoff).any())


@torch.no_grad()
def dense_pairs(system: System, cutoff: float) -> Pairs:
    """All N(N-1) pairs of every system, nearest image only, filtered by distance.

    Raises:
        ValueError: if the cutoff exceeds half the width of a periodic cell: nearest images would miss pairs.
    """
    if system.periodic:
        check_cutoff(system.cell, system.pbc, cutoff)
    if system.size is None:
        return _ragged_pairs(system, cutoff)
    n, x = system.size, system.dense()
    cell = completed(system.cell, system.pbc) if system.periodic else None
    block = max(1, DENSE_BLOCK // max(1, n * n))
    found = []
    for first in range(0, max(1, len(x)), block):
        part = slice(first, first + block)
        lattice = None if cell is None else (cell[part], system.pbc[part])
        found.append(_all_pairs(x[part], lattice, cutoff, first * n))
    return found[0] if len(found) == 1 else Pairs(torch.cat([p.index for p in found], 1), torch.cat([p.shift for p in found]))


def _all_pairs(x: Tensor, lattice: tuple[Tensor, Tensor] | None, cutoff: float, offset: int) -> Pairs:
    """Pairs of equally large systems ``x`` (S, n, 3); ``offset`` is the number of their first particle."""
    n = x.shape[1]
    d = x[:, None, :, :] - x[:, :, None, :]
    if lattice is not None:
        cell, pbc = lattice
        flat = d.reshape(len(x), n * n, 3)
        shift = _nearest_shift(flat, cell, pbc)
        d = (flat + shift.to(d.dtype) @ cell).reshape(d.shape)
    near = (d * d).sum(-1) < cutoff**2
    near.diagonal(dim1=1, dim2=2).fill_(False)
    s, i, j = torch.nonzero(near, as_tuple=True)
    index = torch.stack([i, j]) + (s * n + offset)
    if lattice is None:
        return Pairs(index, torch.zeros(len(s), 3, dtype=torch.long, device=x.device))
    return Pairs(index, shift.reshape(len(x), n, n, 3)[s, i, j])


def _ragged_pairs(system: System, cutoff: float) -> Pairs:
    index, shifts = [], []
    counts = torch.bincount(system.batch, minlength=system.n_systems)
    first = torch.cumsum(counts, 0) - counts
    for s in range(system.n_systems):
        one = dense_pairs(system.select([s]), cutoff)
        index.append(one.index + first[s])
        shifts.append(one.shift)
    return Pairs(torch.cat(index, 1), torch.cat(shifts))


def _nearest_shift(d: Tensor, cell: Tensor, pbc: Tensor) -> Tensor:
    """Integer lattice shifts (S, P, 3) that bring displacements to their nearest image; ``cell`` has a volume."""
    return (-fractional(d, cell).round() * pbc[:, None, :]).long()


@torch.no_grad()
def vesin_pairs(system: System, cutoff: float) -> Pairs:
    """Cell list by vesin (Fraux, Loche et al.), system by system; small cells contribute every image within the cutoff."""
    from vesin import NeighborList

    if system.periodic:
        periodic_widths(system.cell, system.pbc)  # refuses a cell without volume
    search = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    index, shifts, device = [], [], system.positions.device
    counts = torch.bincount(system.batch, minlength=system.n_systems).cpu().numpy()
    first = np.cumsum(counts) - counts
    x, cell = system.positions.double().cpu().numpy(), completed(system.cell, system.pbc).double().cpu().numpy()
    for s, pbc in enumerate(system.pbc.cpu().numpy()):
        points = np.ascontiguousarray(x[first[s] : first[s] + counts[s]])
        i, j, S = search.compute(points=points, box=np.ascontiguousarray(cell[s]), periodic=pbc.copy(), quantities="ijS")
        index.append(np.stack([i, j]).astype(np.int64) + first[s])
        shifts.append(np.asarray(S, dtype=np.int64).reshape(-1, 3))
    return Pairs(torch.from_numpy(np.concatenate(index, 1)).to(device), torch.from_numpy(np.concatenate(shifts)).to(device))
