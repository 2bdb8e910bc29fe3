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
    """All pairs closer than ``cutoff`` by cells half as wide as the cutoff (Quentrec and Brot, J. Comput. Phys. 13, 430 (1973)), system by system, in time ~ N.

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
    def _lap(c, n):  # whole periods of n in c, and what is left; divisions of integers are slow
        lap = 0
        while c < 0:
            c += n
            lap -= 1
        while c >= n:
            c -= n
            lap += 1
        return lap, c

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
    offset = np.empty((25, 2), np.int64)
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
        product, side = 1.0, 0.5 * cutoff
        for a in range(3):
            width[a] *= high[a] - low[a]
            product *= max(1.0, np.floor(width[a] / cutoff))
        shrink = max(1.0, product / (2.0 * n + 8.0)) ** (
            1.0 / 3.0
        )  # sparse systems: wider cells, so that there are not more than ~2 n
        for a in range(3):
            grid[a] = max(1, int(np.floor(width[a] / (side * shrink))))
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
        if spread[0] * spread[1] > len(offset):
            offset = np.empty((spread[0] * spread[1], 2), np.int64)
        for column in range(spread[0] * spread[1]):
            offset[column, 0], offset[column, 1] = column // spread[1] - reach[0], column % spread[1] - reach[1]
        for i in range(first, first + n):
            px, py, pz = y[place[i], 0], y[place[i], 1], y[place[i], 2]
            for column in range(spread[0] * spread[1] // 2, spread[0] * spread[1]):  # one half of the surroundings
                lx, cx = _lap(home_cell[i, 0] + offset[column, 0], grid[0])
                ly, cy = _lap(home_cell[i, 1] + offset[column, 1], grid[1])
                if (lx != 0 and not pbc[0]) or (ly != 0 and not pbc[1]):
                    continue
                line = (cx * grid[1] + cy) * grid[2]
                own = offset[column, 0] == 0 and offset[column, 1] == 0
                z, last = home_cell[i, 2] - (0 if own else reach[2]), home_cell[i, 2] + reach[2]
                if not pbc[2]:
                    z, last = max(z, 0), min(last, grid[2] - 1)
                while z <= last:  # cells in a row along z lie in a row in memory, up to the end of the period
                    lz, cz = _lap(z, grid[2])
                    stop = min(last, z - cz + grid[2] - 1)
                    p0, p1 = first + begin[line + cz], first + begin[line + cz + stop - z + 1]
                    if own and z == home_cell[i, 2]:
                        p0 = place[i] + 1
                    z = stop + 1
                    if p1 <= p0:
                        continue
                    if found + p1 - p0 > len(sender):
                        grown = np.empty(2 * len(sender) + p1 - p0, np.int32)
                        grown[:found] = sender[:found]
                        sender = grown
                    qx = lx * cell[0, 0] + ly * cell[1, 0] + lz * cell[2, 0] - px
                    qy = lx * cell[0, 1] + ly * cell[1, 1] + lz * cell[2, 1] - py
                    qz = lx * cell[0, 2] + ly * cell[1, 2] + lz * cell[2, 2] - pz
                    before = found
                    for p in range(p0, p1):
                        dx, dy, dz = y[p, 0] + qx, y[p, 1] + qy, y[p, 2] + qz
                        sender[found] = order[p]
                        found += dx * dx + dy * dy + dz * dz < cutoff * cutoff
                    if lx == 0 and ly == 0 and lz == 0:
                        continue
                    kind = ((lx + laps[0]) * (2 * laps[1] + 1) + ly + laps[1]) * (2 * laps[2] + 1) + lz + laps[2]
                    if known + n > len(parent):
                        more_parents, more_images = np.empty(2 * known + n, np.int32), np.empty((2 * known + n, 3), np.int32)
                        more_parents[:known], more_images[:known] = parent[:known], image[:known]
                        parent, image = more_parents, more_images
                    for f in range(before, found):
                        j = sender[f]
                        k = ghost[kind * n + j - first]
                        if k < 0:
                            k = known
                            known += 1
                            parent[k] = j
                            image[k, 0], image[k, 1], image[k, 2] = image[j, 0] + lx, image[j, 1] + ly, image[j, 2] + lz
                            ghost[kind * n + j - first] = k
                        sender[f] = k
            start[i + 1] = found
        first += n
    return start, sender[:found].copy(), parent[:known].copy(), image[:known].copy()
