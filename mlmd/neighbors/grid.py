"""A cell list of batched tensor operations, for any device; the lists for the CPU are faster there."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from mlmd.cell import completed, periodic_widths
from mlmd.neighbors.pairs import Pairs
from mlmd.system import System


@torch.no_grad()
def grid_pairs(system: System, cutoff: float) -> Pairs:
    """All pairs closer than ``cutoff``, all systems at once, in time and memory ~ N at given density.

    Every array has the length that its contents need, so nothing can overflow. Any cell, unwrapped positions, and cells
    narrower than the cutoff, of which every image within it counts.

    Raises:
        ValueError: if a periodic cell has no volume.
    """
    if system.periodic:
        periodic_widths(system.cell, system.pbc)  # refuses a cell without volume
    cell = completed(system.cell, system.pbc).double()
    batch, x = system.batch, system.positions.double()
    inverse = torch.linalg.inv(cell)
    s = torch.einsum("ni,nij->nj", x, inverse[batch])
    home = torch.where(system.pbc[batch], s.floor(), torch.zeros_like(s))
    y = x - torch.einsum("ni,nij->nj", home, cell[batch])
    low, extent = _extent(s - home, system)
    grid, reach = _divisions(extent / inverse.norm(dim=-2), cutoff, system)
    at = ((s - home - low[batch]) / extent.clamp(min=1e-12)[batch] * grid[batch]).long()
    at = at.clamp(min=0).minimum(grid[batch] - 1)
    first = torch.cumsum(grid.prod(1), 0) - grid.prod(1)

    def number(c: Tensor) -> Tensor:
        g = grid[batch]
        return first[batch] + (c[:, 0] * g[:, 1] + c[:, 1]) * g[:, 2] + c[:, 2]

    order = torch.argsort(number(at), stable=True)
    count = torch.bincount(number(at), minlength=int(grid.prod(1).sum()))
    begin = torch.cumsum(count, 0) - count
    found = []
    for step in itertools.product(*(range(-r, r + 1) for r in reach.amax(0).tolist())):
        offset = torch.tensor(step, device=x.device)
        there = at + offset
        lap = there.div(grid[batch], rounding_mode="floor")
        valid = ((lap == 0) | system.pbc[batch]).all(1) & (offset.abs() <= reach[batch]).all(1)
        target = number(there - lap * grid[batch])
        many = torch.where(valid, count[target.where(valid, torch.zeros_like(target))], torch.zeros_like(target))
        i = torch.repeat_interleave(torch.arange(len(x), device=x.device), many)
        place = torch.arange(len(i), device=x.device) - (torch.cumsum(many, 0) - many)[i]
        j = order[begin[target[i]] + place]
        image = lap[i]
        d = y[j] - y[i] + torch.einsum("pi,pij->pj", image.double(), cell[batch[i]])
        near = (d.square().sum(1) < cutoff**2) & ((i != j) | image.any(1))
        i, j, image = i[near], j[near], image[near]
        found.append((torch.stack([i, j]), image + (home[i] - home[j]).long()))
    index, shift = torch.cat([f[0] for f in found], 1), torch.cat([f[1] for f in found])
    by_receiver = torch.argsort(index[0], stable=True)
    return Pairs(index[:, by_receiver], shift[by_receiver])


def _extent(s: Tensor, system: System) -> tuple[Tensor, Tensor]:
    """Least fractional coordinate and their range, (S, 3) each: 0 and 1 where periodic."""
    index = system.batch[:, None].expand(-1, 3)
    low = s.new_zeros(system.n_systems, 3).scatter_reduce(0, index, s, "amin", include_self=False)
    high = s.new_zeros(system.n_systems, 3).scatter_reduce(0, index, s, "amax", include_self=False)
    zero, one = torch.zeros_like(low), torch.ones_like(low)
    return torch.where(system.pbc, zero, low), torch.where(system.pbc, one, high - low)


def _divisions(width: Tensor, cutoff: float, system: System) -> tuple[Tensor, Tensor]:
    """Cells along every direction, not more than about one per particle, and how many of them the cutoff reaches over, (S, 3)."""
    n = torch.bincount(system.batch, minlength=system.n_systems)
    wanted = (width / cutoff).floor().clamp(min=1.0)
    shrink = (wanted.prod(1) / (n + 8.0)).clamp(min=1.0) ** (1.0 / 3.0)
    most = (n + 8)[:, None].to(width.dtype)
    grid = (width / cutoff / shrink[:, None]).floor().clamp(min=1.0).minimum(most)
    reach = (cutoff * grid / width.clamp(min=1e-12) * (1.0 + 1e-12)).ceil()
    reach = torch.where(system.pbc, reach, reach.minimum(grid - 1.0))
    return grid.long(), reach.long()
