"""A cell list for the CPU as one compiled loop; its result are rows, from which pair forces are summed without further copies."""

from __future__ import annotations

import numpy as np
import torch

from mlmd.cell import completed, periodic_widths
from mlmd.jit import jit
from mlmd.neighbors.rows import RowPairs, Rows
from mlmd.system import System


@torch.no_grad()
def cell_pairs(system: System, cutoff: float) -> RowPairs:
    """All pairs closer than ``cutoff`` by cells as wide as the cutoff (Quentrec and Brot 1973), system by system, in time ~ N.

    Any cell, unwrapped positions, and cells narrower than the cutoff, of which every image within it counts.

    Raises:
        ValueError: if a periodic cell has no volume.
    """
    periodic = system.periodic
    if periodic:
        periodic_widths(system.cell, system.pbc)  # refuses a cell without volume
        cell = completed(system.cell, system.pbc).double()
    else:
        cell = torch.eye(3, dtype=torch.float64).expand(system.n_systems, 3, 3)
    x = system.positions.double().numpy()
    counts = torch.bincount(system.batch, minlength=system.n_systems).numpy()
    found = _rows(np.ascontiguousarray(x), counts, cell.contiguous().numpy(), system.pbc.numpy(), float(cutoff))
    return RowPairs(Rows(*found))


@jit
def _rows(x, counts, cells, periodic, cutoff):
    n_all = len(x)
    start = np.zeros(n_all + 1, np.int32)
    sender = np.empty(16 * n_all + 64, np.int32)
    parent = np.empty(2 * n_all + 64, np.int32)
    image = np.zeros((2 * n_all + 64, 3), np.int32)
    for i in range(n_all):
        parent[i] = i
    found, known, first = 0, n_all, 0
    y = np.empty((n_all, 3))  # positions in the cell, sorted by grid cell
    order, place, ghost = np.empty(n_all, np.int32), np.empty(n_all, np.int32), np.empty(0, np.int32)
    home_cell = np.empty((n_all, 3), np.int32)
    begin = np.zeros(64, np.int32)
    low, high, inverse, width = np.empty(3), np.empty(3), np.empty((3, 3)), np.empty(3)
    grid, reach = np.empty(3, np.int64), np.empty(3, np.int64)
    for system in range(len(counts)):
        n = counts[system]
        cell, pbc = cells[system], periodic[system]
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            for d in range(3):
                e, f = (d + 1) % 3, (d + 2) % 3
                inverse[d, a] = cell[b, e] * cell[c, f] - cell[b, f] * cell[c, e]
        volume = cell[0, 0] * inverse[0, 0] + cell[0, 1] * inverse[1, 0] + cell[0, 2] * inverse[2, 0]
        for a in range(3):
            area = np.sqrt(inverse[0, a] ** 2 + inverse[1, a] ** 2 + inverse[2, a] ** 2)
            width[a] = abs(volume) / area
            low[a], high[a] = 0.0, 1.0
            if not pbc[a]:
                low[a], high[a] = np.inf, -np.inf
        for d in range(3):
            for a in range(3):
                inverse[d, a] /= volume
        # fractional coordinates, in [0, 1) where periodic
        for i in range(first, first + n):
            for a in range(3):
                s = x[i, 0] * inverse[0, a] + x[i, 1] * inverse[1, a] + x[i, 2] * inverse[2, a]
                if pbc[a]:
                    whole = np.floor(s)
                    s -= whole
                    image[i, a] = -np.int32(whole)
                else:
                    low[a], high[a] = min(low[a], s), max(high[a], s)
                y[i, a] = s
        product = 1.0
        for a in range(3):
            width[a] *= high[a] - low[a]
            product *= max(1.0, np.floor(width[a] / cutoff))
        shrink = max(1.0, product / (2.0 * n + 8.0)) ** (
            1.0 / 3.0
        )  # sparse systems: wider cells, so that there are not more than ~2 n
        for a in range(3):
            grid[a] = max(1, int(np.floor(width[a] / (cutoff * shrink))))
            reach[a] = int(np.ceil(cutoff * grid[a] / width[a] * (1.0 + 1e-12))) if width[a] > 0 else 0
            if not pbc[a]:
                reach[a] = min(reach[a], grid[a] - 1)
        cells_in_all = grid[0] * grid[1] * grid[2]
        if cells_in_all + 1 > len(begin):
            begin = np.zeros(2 * (cells_in_all + 1), np.int32)
        begin[: cells_in_all + 1] = 0
        for i in range(first, first + n):
            for a in range(3):
                extent = high[a] - low[a]
                g = int((y[i, a] - low[a]) / extent * grid[a]) if extent > 0 else 0
                home_cell[i, a] = min(max(g, 0), grid[a] - 1)
            begin[(home_cell[i, 0] * grid[1] + home_cell[i, 1]) * grid[2] + home_cell[i, 2] + 1] += 1
        for c in range(cells_in_all):
            begin[c + 1] += begin[c]
        for i in range(first, first + n):
            c = (home_cell[i, 0] * grid[1] + home_cell[i, 1]) * grid[2] + home_cell[i, 2]
            place[i] = first + begin[c]
            order[place[i]] = i
            begin[c] += 1
        for c in range(cells_in_all, 0, -1):
            begin[c] = begin[c - 1]
        begin[0] = 0
        for p in range(first, first + n):
            i = order[p]
            for d in range(3):
                at = x[i, d]
                for a in range(3):
                    at += image[i, a] * cell[a, d]
                y[p, d] = at
        # images that are met are numbered when they are first met
        spread = 2 * reach + 1
        if pbc[0] or pbc[1] or pbc[2]:
            laps = (reach + grid - 1) // grid  # how many periods away an image can be
            kinds = (2 * laps[0] + 1) * (2 * laps[1] + 1) * (2 * laps[2] + 1)
            if len(ghost) < kinds * n:
                ghost = np.empty(kinds * n, np.int32)
            ghost[: kinds * n] = -1
        stencil = spread[0] * spread[1] * spread[2]
        for i in range(first, first + n):
            px, py, pz = y[place[i], 0], y[place[i], 1], y[place[i], 2]
            for o in range(stencil // 2, stencil):  # one half of the surroundings, from the own cell on
                ox, oy, oz = (
                    o // (spread[1] * spread[2]) - reach[0],
                    (o // spread[2]) % spread[1] - reach[1],
                    o % spread[2] - reach[2],
                )
                cx, cy, cz = home_cell[i, 0] + ox, home_cell[i, 1] + oy, home_cell[i, 2] + oz
                lx, ly, lz = cx // grid[0], cy // grid[1], cz // grid[2]
                if (lx != 0 and not pbc[0]) or (ly != 0 and not pbc[1]) or (lz != 0 and not pbc[2]):
                    continue
                cx, cy, cz = cx - lx * grid[0], cy - ly * grid[1], cz - lz * grid[2]
                c = (cx * grid[1] + cy) * grid[2] + cz
                away = lx != 0 or ly != 0 or lz != 0
                qx = lx * cell[0, 0] + ly * cell[1, 0] + lz * cell[2, 0] - px
                qy = lx * cell[0, 1] + ly * cell[1, 1] + lz * cell[2, 1] - py
                qz = lx * cell[0, 2] + ly * cell[1, 2] + lz * cell[2, 2] - pz
                p0, p1 = first + begin[c], first + begin[c + 1]
                if o == stencil // 2:
                    p0 = place[i] + 1
                if found + p1 - p0 > len(sender):
                    grown = np.empty(2 * len(sender) + p1 - p0, np.int32)
                    grown[:found] = sender[:found]
                    sender = grown
                if not away:
                    for p in range(p0, p1):
                        dx, dy, dz = y[p, 0] + qx, y[p, 1] + qy, y[p, 2] + qz
                        sender[found] = order[p]
                        found += dx * dx + dy * dy + dz * dz < cutoff * cutoff
                    continue
                kind = ((lx + laps[0]) * (2 * laps[1] + 1) + ly + laps[1]) * (2 * laps[2] + 1) + lz + laps[2]
                for p in range(p0, p1):
                    dx, dy, dz = y[p, 0] + qx, y[p, 1] + qy, y[p, 2] + qz
                    if dx * dx + dy * dy + dz * dz < cutoff * cutoff:
                        j = order[p]
                        k = ghost[kind * n + j - first]
                        if k < 0:
                            if known == len(parent):
                                more_parents, more_images = np.empty(2 * known, np.int32), np.empty((2 * known, 3), np.int32)
                                more_parents[:known], more_images[:known] = parent[:known], image[:known]
                                parent, image = more_parents, more_images
                            k = known
                            known += 1
                            parent[k] = j
                            image[k, 0], image[k, 1], image[k, 2] = image[j, 0] + lx, image[j, 1] + ly, image[j, 2] + lz
                            ghost[kind * n + j - first] = k
                        sender[found] = k
                        found += 1
            start[i + 1] = found
        first += n
    return start, sender[:found].copy(), parent[:known].copy(), image[:known].copy()
