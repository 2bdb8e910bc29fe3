"""The sum of a table over pairs, sixteen of one receiver at a time, in vector instructions."""

from __future__ import annotations

import numpy as np

from mlmd.jit import jit
from mlmd.lanes import LANES, add_to_row, shifted_right, subtract_from_rows, take_rows

TOGETHER = 32  # blocks that go through one stage after another: enough to hide latencies, few enough for the first cache
NOWHERE = 1e9  # A; where senders that are missing are: out of every reach, and their square is still a number


@jit
def _sum_blocks(x, batch, cell, n_rows, receiver, sender, parent, image, kind, first, table, lowest, bits, reach, energy, forces):
    """Energy per system and forces of a table over the blocks of :class:`mlmd.neighbors.rows.Rows`.

    Three stages without branches: vectors and numbers of table rows; energies and forces; forces to the senders. Images get their
    own forces, which are added to their parents' at the end. Row i of ``pull`` ends with the energy of the pairs of receiver i.
    """
    n, n_all = len(x), len(parent)
    at, pull = np.empty((n_all + 1, 4), x.dtype), np.zeros((n_all + 1, 4), x.dtype)
    rows = len(table) // (len(first) * len(first))  # of one pair of types
    for k in range(n_all):
        j = parent[k]
        a, b, c, box = x.dtype.type(image[k, 0]), x.dtype.type(image[k, 1]), x.dtype.type(image[k, 2]), cell[batch[j]]
        at[k, 0] = x[j, 0] + (a * box[0, 0] + b * box[1, 0] + c * box[2, 0])
        at[k, 1] = x[j, 1] + (a * box[0, 1] + b * box[1, 1] + c * box[2, 1])
        at[k, 2] = x[j, 2] + (a * box[0, 2] + b * box[1, 2] + c * box[2, 2])
        at[k, 3] = kind[j] * rows  # whole numbers below 2^24 are exact
    at[n_all, 0], at[n_all, 1], at[n_all, 2], at[n_all, 3] = NOWHERE, NOWHERE, NOWHERE, 0
    drop, squared, zero = np.uint32(23 - bits), x.dtype.type(reach), x.dtype.type(0)
    lowest, last = np.uint32(lowest), np.uint32(rows - 1)
    whole = np.uint32(np.uint32(0xFFFFFFFF) << drop)
    vector, row, which = (
        np.zeros((TOGETHER, 5, LANES), x.dtype),
        np.empty((4, LANES), x.dtype),
        np.empty((TOGETHER, LANES), np.uint32),
    )
    for begin in range(0, len(receiver), TOGETHER):
        held = min(TOGETHER, len(receiver) - begin)
        for m in range(held):
            v, w, i = vector[m], which[m], receiver[begin + m]
            xi, yi, zi, own = at[i, 0], at[i, 1], at[i, 2], at[i, 3] * len(first)
            take_rows(at, sender, (begin + m) * LANES, v)
            for k in range(LANES):
                dx, dy, dz = v[0, k] - xi, v[1, k] - yi, v[2, k] - zi
                s = x.dtype.type(min(dx * dx + dy * dy + dz * dz, squared))
                number = shifted_right(np.float32(s).view(np.uint32), drop)
                w[k] = np.uint32(min(np.uint32(max(number, lowest) - lowest), last)) + np.uint32(np.int32(v[3, k] + own))
                v[0, k], v[1, k], v[2, k], v[4, k] = dx, dy, dz, s
        for m in range(held):
            v = vector[m]
            take_rows(table, which[m], 0, row)
            for k in range(LANES):
                s = v[4, k]
                t = s - np.uint32(np.float32(s).view(np.uint32) & whole).view(np.float32)
                c1, c2, c3 = row[1, k], row[2, k], row[3, k]
                slope = c1 + t * (c2 + c2 + t * (c3 + c3 + c3))
                u = row[0, k] + t * (c1 + t * (c2 + t * c3))
                f = slope + slope if s < squared else zero
                v[0, k], v[1, k], v[2, k] = f * v[0, k], f * v[1, k], f * v[2, k]
                v[3, k] = u if s < squared else zero
        for m in range(held):
            subtract_from_rows(pull, sender, (begin + m) * LANES, vector[m])
            add_to_row(pull, receiver[begin + m], vector[m])
    for k in range(n_rows, n_all):
        j = parent[k]
        for d in range(3):
            pull[j, d] += pull[k, d]
    for i in range(n_rows):
        energy[batch[i]] += pull[i, 3]
    for i in range(n):
        for d in range(3):
            forces[i, d] = pull[i, d] if i < n_rows else zero
