"""A cell list for the CPU as one compiled loop; its result are rows, from which pair forces are summed without further copies."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mlmd.cell import completed, periodic_widths
from mlmd.jit import jit
from mlmd.lanes import LANES, keep_below
from mlmd.neighbors.rows import FoundRows, RowPairs
from mlmd.system import System


@torch.no_grad()
def cell_pairs(system: System, cutoff: float) -> RowPairs:
    """All pairs closer than ``cutoff``, system by system, in time ~ N.

    By cells half as wide as the cutoff (Quentrec and Brot, J. Comput. Phys. 13, 430 (1973)), fewer in sparse systems. Any cell,
    unwrapped positions, and cells narrower than the cutoff, of which every image within it counts.

    Raises:
        ValueError: if a periodic cell has no volume.
    """
    x, n_systems = system.positions.double().contiguous().numpy(), system.n_systems
    counts = np.full(n_systems, system.size) if system.size is not None else np.bincount(system.batch.numpy(), minlength=n_systems)
    cell = np.tile(np.eye(3), (n_systems, 1, 1))
    if system.periodic:
        cell = completed(system.cell, system.pbc).double().contiguous().numpy()
    inverse, width = np.empty((n_systems, 3, 3)), np.empty((n_systems, 3))
    if _lattices(cell, inverse, width) < 1e-9:
        periodic_widths(system.cell, system.pbc)  # refuses it
    boxes = (cell, inverse, width, system.pbc.numpy())
    room = _room(cell, counts, cutoff) if bool(system.pbc.all()) else 64  # pairs per particle; doubled until all fit
    while True:
        number, bounds = np.empty(len(x), np.int32), np.empty(len(x) + 1, np.int64)
        sender, near = np.empty(room * len(x) + 64, np.uint32), np.empty((3, 16 * room))
        parent, image = np.empty((1 + room // 6) * len(x) + 64, np.uint32), np.empty(((1 + room // 6) * len(x) + 64, 3), np.int32)
        ghost = np.empty((room + 8) * int(counts.max()) + 64, np.int32)
        known = _rows(x, counts, *boxes, float(cutoff), number, bounds, sender, near, parent, image, ghost)
        if known >= 0:
            return RowPairs(FoundRows(number, bounds, sender, parent[:known], image[:known]))
        room *= 2


def _room(cell: NDArray[np.float64], counts: NDArray[np.int64], cutoff: float) -> int:
    """Half the neighbours in the densest box if it is filled evenly, and a third more."""
    density = float((counts / np.abs(np.linalg.det(cell))).max())
    return max(64, int(1.33 * 2 / 3 * np.pi * cutoff**3 * density))


@jit
def _lattices(cells, inverses, widths):
    """Inverses and distances between opposite faces of cells (S, 3, 3) by products of their vectors; the smallest volume."""
    smallest = np.inf
    for k in range(len(cells)):
        for a in range(3):
            b, c = cells[k, (a + 1) % 3], cells[k, (a + 2) % 3]
            x, y, z = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
            volume = cells[k, a, 0] * x + cells[k, a, 1] * y + cells[k, a, 2] * z
            inverses[k, 0, a], inverses[k, 1, a], inverses[k, 2, a] = x / volume, y / volume, z / volume
            widths[k, a] = abs(volume) / np.sqrt(x * x + y * y + z * z)
            smallest = min(smallest, abs(volume))
    return smallest


@jit
def _rows(x, counts, cells, inverses, widths, periodic, cutoff, number, bounds, sender, near, parent, image, ghost):
    """Fill the rows, cell by cell; row k is that of particle ``number[k]``. All that half of the surroundings of a cell hold is copied
    to ``near`` once and then compared with each of its particles.

    Returns how many particles and images there are, -1 where an array is too short. No array is replaced inside: that is slow.
    """

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
        image[i, 0], image[i, 1], image[i, 2] = 0, 0, 0
    found, known, first, side, squared = 0, n_all, 0, 0.5 * cutoff, cutoff * cutoff
    y = np.empty((3, n_all))  # positions in the cell, sorted by grid cell
    who, squares = np.empty(near.shape[1], np.int32), np.empty(near.shape[1])
    bounds[0] = 0
    home = np.empty((n_all, 3), np.int32)
    begin = np.zeros(counts.max() + 16, np.int32)
    low, high, width = np.empty(3), np.empty(3), np.empty(3)
    grid, reach, laps, stride = np.empty(3, np.int64), np.empty(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64)
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
                y[a, i] = s
        product = 1.0
        for a in range(3):
            width[a] = widths[system, a] * max(0.0, high[a] - low[a])
            product *= max(1.0, np.floor(width[a] / side))
        shrink = max(1.0, product / (n + 8.0)) ** (1.0 / 3.0)  # sparse systems: wider cells, so that there are about n
        many = 1
        for a in range(3):
            grid[a] = min(max(1, int(width[a] / (side * shrink))), max(1, (n + 8) // many))
            many *= grid[a]
            reach[a] = int(np.ceil(cutoff * grid[a] / width[a] * (1.0 + 1e-12))) if width[a] > 0 else 0
            if not periodic[system, a]:
                reach[a] = min(reach[a], grid[a] - 1)
            laps[a] = (reach[a] + grid[a] - 1) // grid[a] if periodic[system, a] else 0  # how many periods away an image can be
        stride[0], stride[1], stride[2] = (2 * laps[1] + 1) * (2 * laps[2] + 1), 2 * laps[2] + 1, 1
        here = laps[0] * stride[0] + laps[1] * stride[1] + laps[2]
        kinds = (2 * laps[0] + 1) * (2 * laps[1] + 1) * (2 * laps[2] + 1)
        if kinds * n > len(ghost):
            return -1
        ghost[: kinds * n] = -1
        for i in range(n):
            ghost[here * n + i] = first + i
        begin[: many + 1] = 0
        for i in range(first, first + n):
            for a in range(3):
                extent = high[a] - low[a]
                g = int((y[a, i] - low[a]) / extent * grid[a]) if extent > 0 else 0
                home[i, a] = min(max(g, 0), grid[a] - 1)
            begin[(home[i, 0] * grid[1] + home[i, 1]) * grid[2] + home[i, 2] + 1] += 1
        for c in range(many):
            begin[c + 1] += begin[c]
        for i in range(first, first + n):
            c = (home[i, 0] * grid[1] + home[i, 1]) * grid[2] + home[i, 2]
            number[first + begin[c]] = i
            begin[c] += 1
        for c in range(many, 0, -1):
            begin[c] = begin[c - 1]
        begin[0] = 0
        for p in range(first, first + n):
            i = number[p]
            for d in range(3):
                at = x[i, d]
                for a in range(3):
                    at += image[i, a] * cells[system, a, d]
                y[d, p] = at
        gx, gy, gz, rx, ry, rz = grid[0], grid[1], grid[2], reach[0], reach[1], reach[2]
        turn_x, turn_y, turn_z = periodic[system, 0], periodic[system, 1], periodic[system, 2]
        for c in range(many):
            h0, h1 = first + begin[c], first + begin[c + 1]
            if h0 == h1:
                continue
            hx, hy, hz = c // (gy * gz), c // gz % gy, c % gz
            size = 0
            for ox in range(rx + 1):  # one half of the surroundings, the cell itself first
                lx, cx = lap(hx + ox, gx)
                if lx != 0 and not turn_x:
                    continue
                for oy in range(0 if ox == 0 else -ry, ry + 1):
                    ly, cy = lap(hy + oy, gy)
                    if ly != 0 and not turn_y:
                        continue
                    line = (cx * gy + cy) * gz
                    z, last = hz - (0 if ox == 0 and oy == 0 else rz), hz + rz
                    if not turn_z:
                        z, last = max(z, 0), min(last, gz - 1)
                    while z <= last:  # cells in a row along z lie in a row in memory, up to the end of the period
                        lz, cz = lap(z, gz)
                        stop = min(last, z - cz + gz - 1)
                        p0, p1 = first + begin[line + cz], first + begin[line + cz + stop - z + 1]
                        z = stop + 1
                        if size + p1 - p0 + LANES > near.shape[1]:
                            return -1
                        qx = lx * cells[system, 0, 0] + ly * cells[system, 1, 0] + lz * cells[system, 2, 0]
                        qy = lx * cells[system, 0, 1] + ly * cells[system, 1, 1] + lz * cells[system, 2, 1]
                        qz = lx * cells[system, 0, 2] + ly * cells[system, 1, 2] + lz * cells[system, 2, 2]
                        offset = np.int32((here + lx * stride[0] + ly * stride[1] + lz) * n - first)
                        wx, wy, wz, wn = y[0, p0:p1], y[1, p0:p1], y[2, p0:p1], number[p0:p1]
                        ax, ay, az, an = near[0, size:], near[1, size:], near[2, size:], who[size:]
                        for p in range(p1 - p0):
                            ax[p], ay[p], az[p], an[p] = wx[p] + qx, wy[p] + qy, wz[p] + qz, wn[p] + offset
                        size += p1 - p0
            for q in range(size, size + LANES):  # so that whole registers can be compared
                near[0, q], near[1, q], near[2, q] = np.inf, np.inf, np.inf
            for k in range(h0, h1):
                if found + size + LANES > len(sender):
                    return -1
                px, py, pz, after = y[0, k], y[1, k], y[2, k], k - h0 + 1
                ax, ay, az = near[0, after:], near[1, after:], near[2, after:]
                whole, count = (size - after + LANES - 1) // LANES * LANES, 0
                for q in range(whole):
                    dx, dy, dz = ax[q] - px, ay[q] - py, az[q] - pz
                    squares[q] = dx * dx + dy * dy + dz * dz
                for q in range(0, whole, LANES):
                    count += keep_below(squares, q, squared, after + q, sender, found + count)
                for f in range(found, found + count):
                    name = who[sender[f]]
                    j = ghost[name]
                    if j < 0:  # images are numbered when they are first met
                        if known == len(parent):
                            return -1
                        kind, j = name // n, known
                        parent[j] = first + name % n
                        for a in range(3):
                            image[j, a] = image[parent[j], a] + kind // stride[a] % (2 * laps[a] + 1) - laps[a]
                        ghost[name] = j
                        known += 1
                    sender[f] = j
                found += count
                bounds[k + 1] = found
        first += n
    return known
