"""Neighbour search: an all-pairs list in torch and an adapter to vesin's cell list."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlmd.cell import check_cutoff, minimum_image, widths
from mlmd.neighbors.pairs import Pairs
from mlmd.system import System

DENSE_LIMIT = 500  # particles per system; below it all pairs are faster than cells


def neighbors(system: System, cutoff: float) -> Pairs:
    """All pairs closer than ``cutoff``: all pairs for small systems, vesin's cell list for large ones on a CPU.

    A periodic system narrower than twice the cutoff goes to vesin, which counts several images of one particle.

    Raises:
        ValueError: if cutoff is not positive, or a periodic cell has no volume.
    """
    if not cutoff > 0:
        raise ValueError(f"cutoff={cutoff}: must be positive, in A")
    largest = system.size if system.size is not None else int(torch.bincount(system.batch).max())
    if largest <= DENSE_LIMIT and not _narrow(system, cutoff):
        return dense_pairs(system, cutoff)
    if system.positions.is_cuda:
        return dense_pairs(system, cutoff)
    return vesin_pairs(system, cutoff)


def _narrow(system: System, cutoff: float) -> bool:
    if not system.periodic:
        return False
    w = torch.where(system.pbc, widths(system.cell), torch.full_like(system.cell[..., 0], torch.inf))
    return bool((w < 2 * cutoff).any())


@torch.no_grad()
def dense_pairs(system: System, cutoff: float) -> Pairs:
    """All N(N-1) pairs of every system, nearest image only, filtered by distance.

    Raises:
        ValueError: if the cutoff exceeds half the width of a periodic cell: nearest images would miss pairs.
    """
    check_cutoff(system.cell, system.pbc, cutoff)
    if system.size is not None:
        n = system.size
        local = ~torch.eye(n, dtype=torch.bool, device=system.positions.device)
        x = system.dense()
        d = x[:, None, :, :] - x[:, :, None, :]
        shift = _nearest_shift(d.reshape(len(x), -1, 3), system.cell, system.pbc).reshape(d.shape)
        d = d + (shift.to(d.dtype).reshape(len(x), -1, 3) @ system.cell).reshape(d.shape)
        s, i, j = torch.nonzero(((d * d).sum(-1) < cutoff**2) & local, as_tuple=True)
        return Pairs(torch.stack([i + s * n, j + s * n]), shift[s, i, j])
    return _ragged_pairs(system, cutoff)


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
    """Integer lattice shifts (S, P, 3) that bring displacements to their nearest image."""
    if not bool(pbc.any()):
        return torch.zeros(d.shape, dtype=torch.long, device=d.device)
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device)
    solvable = torch.where(pbc[:, :, None], cell, identity)  # directions without a period get a dummy vector
    moved = d - minimum_image(d, solvable)
    shift = -torch.linalg.solve(solvable.transpose(-1, -2), moved.transpose(-1, -2)).transpose(-1, -2).round()
    return (shift * pbc[:, None, :]).long()


@torch.no_grad()
def vesin_pairs(system: System, cutoff: float) -> Pairs:
    """Cell list by vesin (Fraux, Loche et al.), system by system; small cells contribute every image within the cutoff."""
    from vesin import NeighborList

    if bool((system.pbc.any(-1) & (torch.linalg.det(system.cell).abs() < 1e-9)).any()):
        raise ValueError("cell has zero volume but pbc is set: give three lattice vectors in A or set pbc=False")
    search = NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    index, shifts, device = [], [], system.positions.device
    counts = torch.bincount(system.batch, minlength=system.n_systems).cpu().numpy()
    first = np.cumsum(counts) - counts
    x, cell = system.positions.double().cpu().numpy(), system.cell.double().cpu().numpy()
    for s, pbc in enumerate(system.pbc.cpu().numpy()):
        points = np.ascontiguousarray(x[first[s] : first[s] + counts[s]])
        box = np.ascontiguousarray(cell[s]) if pbc.any() else np.eye(3)
        i, j, S = search.compute(points=points, box=box, periodic=pbc.copy(), quantities="ijS")
        index.append(np.stack([i, j]).astype(np.int64) + first[s])
        shifts.append(np.asarray(S, dtype=np.int64).reshape(-1, 3))
    return Pairs(torch.from_numpy(np.concatenate(index, 1)).to(device), torch.from_numpy(np.concatenate(shifts)).to(device))
