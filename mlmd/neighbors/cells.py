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
    """All pairs closer than ``cutoff``, system by system, in time ~ N.

    By cells half as wide as the cutoff (Quentrec and Brot, J. Comput. Phys. 13, 430 (1973)), fewer in sparse systems. Any cell,
    unwrapped positions, and cells narrower than the cutoff, of which every image within it counts.

    Raises:
        ValueError: if a periodic cell has no volume.
    """
    x, counts = system.positions.double().contiguous().numpy(), torch.bincount(system.batch, minlength=system.n_systems).numpy()
    if system.periodic:
        cell = completed(system.cell, system.pbc).double().contiguous()
        if bool((torch.linalg.det(cell).abs() < 1e-9).any()):
            periodic_widths(system.cell, system.pbc)  # refuses it
        inverse = torch.linalg.inv(cell).contiguous()
        width = 1.0 / inverse.norm(dim=-2)
    else:
        cell = inverse = torch.eye(3, dtype=torch.float64).repeat(system.n_systems, 1, 1)
        width = torch.ones(system.n_systems, 3, dtype=torch.float64)
    room = 64  # pairs per particle; doubled until all fit
    while True:
        start, sender = np.zeros(len(x) + 1, np.int32), np.empty(room * len(x) + 64, np.uint32)
        parent, image = np.empty((1 + room // 6) * len(x) + 64, np.uint32), np.zeros(((1 + room // 6) * len(x) + 64, 3), np.int32)
        ghost = np.empty((room + 8) * int(counts.max()) + 64, np.int32)
        found, known = _rows(
            x,
            counts,
            cell.numpy(),
            inverse.numpy(),
            width.numpy(),
            system.pbc.numpy(),
            float(cutoff),
            start,
            sender,
            parent,
            image,
            ghost,
        )
        if found >= 0:
            return RowPairs(Rows(start, sender[:found], parent[:known], image[:known]))
        room *= 2


@jit
def _rows(x, counts, cells, inverses, widths, periodic, cutoff, start, sender, parent, image, ghost):
    """Fill the rows; (pairs, particles and images), or (-1, 0) where an array is too short. No array is replaced inside: that is slow."""

    def lap(c, n):  # whole periods of n in c, and what is left; divisions of integers are slow
        turns = 0
        while c < 0:
            c += n
            turns -= 1
        while c >= n:
            c -= n
            turns += 1
        return turns, c

    n_all = len(x)
    for i in range(n_all):
        parent[i] = i
    found, known, first, side, squared = 0, n_all, 0, 0.5 * cutoff, cutoff * cutoff
    y = np.empty((n_all, 3))  # positions in the cell, sorted by grid cell
    order, place = np.empty(n_all, np.uint32), np.empty(n_all, np.int32)
    home = np.empty((n_all, 3), np.int32)
    begin = np.zeros(counts.max() + 16, np.int32)
    low, high, width = np.empty(3), np.empty(3), np.empty(3)
    grid, reach, laps = np.empty(3, np.int64), np.empty(3, np.int64), np.zeros(3, np.int64)
    for system in range(len(counts)):
        n = counts[system]
        for a in range(3):
            low[a], high[a] = 0.0, 1.0
            if not periodic[system, a]:
                low[a], high[a] = np.inf, -np.inf
        # fractional coordinates, in [0, 1) where periodic
        for i in range(first, first + n):
            for a in range(3):
                s = x[i, 0] * inverses[system, 0, a] + x[i, 1] * inverses[system, 1, a] + x[i, 2] * inverses[system, 2, a]
                if periodic[system, a]:
                    whole = np.floor(s)
                    s -= whole
                    image[i, a] = -np.int32(whole)
                else:
                    low[a], high[a] = min(low[a], s), max(high[a], s)
                y[i, a] = s
        product = 1.0
        for a in range(3):
            width[a] = widths[system, a] * max(0.0, high[a] - low[a])
            product *= max(1.0, np.floor(width[a] / side))
        shrink = max(1.0, product / (n + 8.0)) ** (1.0 / 3.0)  # sparse systems: wider cells, so that there are about n
        number = 1
        for a in range(3):
            grid[a] = min(max(1, int(width[a] / (side * shrink))), max(1, (n + 8) // number))
            number *= grid[a]
            reach[a] = int(np.ceil(cutoff * grid[a] / width[a] * (1.0 + 1e-12))) if width[a] > 0 else 0
            if not periodic[system, a]:
                reach[a] = min(reach[a], grid[a] - 1)
            laps[a] = (reach[a] + grid[a] - 1) // grid[a] if periodic[system, a] else 0  # how many periods away an image can be
        kinds = (2 * laps[0] + 1) * (2 * laps[1] + 1) * (2 * laps[2] + 1)
        if kinds * n > len(ghost):
            return -1, 0
        ghost[: kinds * n] = -1
        begin[: number + 1] = 0
        for i in range(first, first + n):
            for a in range(3):
                extent = high[a] - low[a]
                g = int((y[i, a] - low[a]) / extent * grid[a]) if extent > 0 else 0
                home[i, a] = min(max(g, 0), grid[a] - 1)
            begin[(home[i, 0] * grid[1] + home[i, 1]) * grid[2] + home[i, 2] + 1] += 1
        for c in range(number):
            begin[c + 1] += begin[c]
        for i in range(first, first + n):
            c = (home[i, 0] * grid[1] + home[i, 1]) * grid[2] + home[i, 2]
            place[i] = first + begin[c]
            order[place[i]] = i
            begin[c] += 1
        for c in range(number, 0, -1):
            begin[c] = begin[c - 1]
        begin[0] = 0
        for p in range(first, first + n):
            i = order[p]
            for d in range(3):
                at = x[i, d]
                for a in range(3):
                    at += image[i, a] * cells[system, a, d]
                y[p, d] = at
        gx, gy, gz, rx, ry, rz = grid[0], grid[1], grid[2], reach[0], reach[1], reach[2]
        turn_x, turn_y, turn_z = periodic[system, 0], periodic[system, 1], periodic[system, 2]
        for i in range(first, first + n):
            px, py, pz = y[place[i], 0], y[place[i], 1], y[place[i], 2]
            for ox in range(rx + 1):  # one half of the surroundings
                lx, cx = lap(home[i, 0] + ox, gx)
                if lx != 0 and not turn_x:
                    continue
                for oy in range(0 if ox == 0 else -ry, ry + 1):
                    ly, cy = lap(home[i, 1] + oy, gy)
                    if ly != 0 and not turn_y:
                        continue
                    line, own = (cx * gy + cy) * gz, ox == 0 and oy == 0
                    z, last = home[i, 2] - (0 if own else rz), home[i, 2] + rz
                    if not turn_z:
                        z, last = max(z, 0), min(last, gz - 1)
                    while z <= last:  # cells in a row along z lie in a row in memory, up to the end of the period
                        lz, cz = lap(z, gz)
                        stop = min(last, z - cz + gz - 1)
                        p0, p1 = first + begin[line + cz], first + begin[line + cz + stop - z + 1]
                        if own and z == home[i, 2]:
                            p0 = place[i] + 1
                        z = stop + 1
                        if p1 <= p0:
                            continue
                        if found + p1 - p0 > len(sender):
                            return -1, 0
                        qx = lx * cells[system, 0, 0] + ly * cells[system, 1, 0] + lz * cells[system, 2, 0] - px
                        qy = lx * cells[system, 0, 1] + ly * cells[system, 1, 1] + lz * cells[system, 2, 1] - py
                        qz = lx * cells[system, 0, 2] + ly * cells[system, 1, 2] + lz * cells[system, 2, 2] - pz
                        before = found
                        for p in range(p0, p1):
                            dx, dy, dz = y[p, 0] + qx, y[p, 1] + qy, y[p, 2] + qz
                            sender[found] = order[p]
                            found += dx * dx + dy * dy + dz * dz < squared
                        if lx == 0 and ly == 0 and lz == 0:
                            continue
                        kind = ((lx + laps[0]) * (2 * laps[1] + 1) + ly + laps[1]) * (2 * laps[2] + 1) + lz + laps[2]
                        if known + found - before > len(parent):
                            return -1, 0
                        for f in range(before, found):  # images are numbered when they are first met
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
    return found, known
