"""Loops over pairs, compiled by numba; with tabulated filters no array of the size pairs x features is ever made.

Serial on purpose: every unordered pair is visited once and written to both of its particles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlmd.jit import jit

Integers = NDArray[np.int64]
Floats = NDArray[np.floating]


@jit
def near_pairs(
    x: Floats, i: Integers, j: Integers, shift: Integers, cell: Floats, batch: Integers,
    periodic: bool, cutoff: float, near: Integers, vector: Floats, distance: Floats,
) -> int:  # fmt: skip
    """Finds the pairs within the cutoff; returns their number E.

    Args:
        x: (N, 3) positions; i, j: (P,) every unordered pair once; shift: (P, 3); cell: (S, 3, 3); batch: (N,).
        near: (3, P), the first two filled with i and j; vector: (P, 3), filled from i to j; distance: (P,). Only the first E
            entries are written.

    Returns:
        E, or -1 if the list names a particle that is not there.
    """
    n, size = len(x), len(i)
    count = 0
    for p in range(size):
        a, b = i[p], j[p]
        if a < 0 or b < 0 or a >= n or b >= n:
            return -1
        d0, d1, d2 = x[b, 0] - x[a, 0], x[b, 1] - x[a, 1], x[b, 2] - x[a, 2]
        if periodic:
            c = cell[batch[a]]
            for k in range(3):
                s = shift[p, k]
                d0 += s * c[k, 0]
                d1 += s * c[k, 1]
                d2 += s * c[k, 2]
        r = np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
        if r >= cutoff:
            continue  # NaN stays in the list and reaches the energy through its place
        near[0, count], near[1, count] = a, b
        vector[count, 0], vector[count, 1], vector[count, 2] = d0, d1, d2
        distance[count] = r
        count += 1
    return count


@jit
def place_splines(distance: Floats, count: int, per_length: float, cells: int, near: Integers, spline: Floats) -> None:
    """The four cubic B-splines alive at every distance of a table with ``cells`` intervals, ``per_length`` of them in an Angstrom.

    Fills near[2] with the first row of the table, and ``spline`` (2, P, 4) with values and slopes.
    """
    for e in range(count):
        u = distance[e] * per_length
        k = min(int(u), cells - 1) if u >= 0 else 0
        t = u - k
        s = 1 - t
        near[2, e] = k
        spline[0, e, 0], spline[0, e, 3] = s * s * s / 6, t * t * t / 6
        spline[0, e, 1], spline[0, e, 2] = (t * t * (3 * t - 6) + 4) / 6, (s * s * (3 * s - 6) + 4) / 6
        spline[1, e, 0], spline[1, e, 3] = -0.5 * per_length * s * s, 0.5 * per_length * t * t
        spline[1, e, 1], spline[1, e, 2] = per_length * t * (1.5 * t - 2), -per_length * s * (1.5 * s - 2)


@jit
def sum_filtered(near: Integers, filters: Floats, envelope: Floats, sent: Floats, out: Floats) -> None:
    r"""Adds the messages :math:`m_i=\sum_jf_{ij}W_{ij}\odot y_j` to ``out`` (n, F): filters W (E, F), envelope f (E,), sent y (n, F)."""
    width = sent.shape[1]
    for e in range(len(envelope)):
        a, b, f, w = near[0, e], near[1, e], envelope[e], filters[e]
        ya, yb, mine, theirs = sent[a], sent[b], out[a], out[b]
        for k in range(width):
            mine[k] += f * w[k] * yb[k]
        for k in range(width):
            theirs[k] += f * w[k] * ya[k]


@jit
def pull_filtered(
    near: Integers, filters: Floats, envelope: Floats, sent: Floats, grad: Floats, need: bool, out: Floats, by_filter: Floats,
    by_envelope: Floats,
) -> None:  # fmt: skip
    r"""The reverse of :func:`sum_filtered` for ``grad`` :math:`\gamma=\partial E/\partial m`, (n, F).

    Fills ``by_filter`` (E, F) with :math:`f_{ij}(\gamma_i\odot y_j+\gamma_j\odot y_i)`, adds the derivative by f to ``by_envelope``
    (E,) and, if there is ``need`` of it, the derivative by y to ``out`` (n, F).
    """
    width, zero = sent.shape[1], filters.dtype.type(0)
    for e in range(len(envelope)):
        a, b, f, w, dw = near[0, e], near[1, e], envelope[e], filters[e], by_filter[e]
        ya, yb, ga, gb, mine, theirs = sent[a], sent[b], grad[a], grad[b], out[a], out[b]
        total = zero
        for k in range(width):
            both = ga[k] * yb[k] + gb[k] * ya[k]
            total += both * w[k]
            dw[k] = f * both
        by_envelope[e] += total
        if not need:
            continue
        for k in range(width):
            mine[k] += f * w[k] * gb[k]
        for k in range(width):
            theirs[k] += f * w[k] * ga[k]


@jit
def sum_messages(near: Integers, spline: Floats, count: int, table: Floats, sent: Floats, out: Floats) -> None:
    r"""Adds the messages :math:`m_i=\sum_jW(r_{ij})\odot y_j` of features ``sent`` y (n, F) to ``out`` (n, F)."""
    width = sent.shape[1]
    mine, value = np.zeros(width, sent.dtype), spline[0]
    for e in range(count):
        a, b, k = near[0, e], near[1, e], near[2, e]
        b0, b1, b2, b3 = value[e, 0], value[e, 1], value[e, 2], value[e, 3]
        t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
        ya, yb, theirs = sent[a], sent[b], out[b]
        for f in range(width):
            w = b0 * t0[f] + b1 * t1[f] + b2 * t2[f] + b3 * t3[f]
            mine[f] += w * yb[f]
            theirs[f] += w * ya[f]
        if e + 1 == count or near[0, e + 1] != a:
            for f in range(width):
                out[a, f] += mine[f]
                mine[f] = 0


@jit
def pull_messages(
    near: Integers, spline: Floats, count: int, table: Floats, sent: Floats, grad: Floats, need: bool, out: Floats, dr: Floats,
) -> None:  # fmt: skip
    r"""The reverse of :func:`sum_messages` for ``grad`` :math:`\gamma=\partial E/\partial m`, (n, F).

    Adds :math:`\partial E/\partial r_{ij}=W'\cdot(\gamma_i\odot y_j+\gamma_j\odot y_i)` to ``dr`` (E,) and, if there is ``need`` of
    it, :math:`\partial E/\partial y_i=\sum_jW\odot\gamma_j` to ``out`` (n, F).
    """
    width = sent.shape[1]
    mine = np.zeros(width, sent.dtype)
    value, slope = spline[0], spline[1]
    zero = spline.dtype.type(0)
    for e in range(count):
        a, b, k = near[0, e], near[1, e], near[2, e]
        b0, b1, b2, b3 = value[e, 0], value[e, 1], value[e, 2], value[e, 3]
        s0, s1, s2, s3 = slope[e, 0], slope[e, 1], slope[e, 2], slope[e, 3]
        t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
        ya, yb, ga, gb, theirs = sent[a], sent[b], grad[a], grad[b], out[b]
        total = zero
        for f in range(width):
            total += (s0 * t0[f] + s1 * t1[f] + s2 * t2[f] + s3 * t3[f]) * (ga[f] * yb[f] + gb[f] * ya[f])
        dr[e] += total
        if not need:
            continue
        for f in range(width):
            w = b0 * t0[f] + b1 * t1[f] + b2 * t2[f] + b3 * t3[f]
            mine[f] += w * gb[f]
            theirs[f] += w * ga[f]
        if e + 1 == count or near[0, e + 1] != a:
            for f in range(width):
                out[a, f] += mine[f]
                mine[f] = 0


@jit
def pair_forces(near: Integers, vector: Floats, count: int, dr: Floats, out: Floats) -> None:
    r"""Adds forces to ``out`` (n, 3) by the slopes ``dr`` (E,): :math:`F_i=\sum_j\partial E/\partial r_{ij}\,\hat r_{ij}`."""
    for e in range(count):
        a, b = near[0, e], near[1, e]
        d0, d1, d2 = vector[e, 0], vector[e, 1], vector[e, 2]
        s = dr[e] / max(np.sqrt(d0 * d0 + d1 * d1 + d2 * d2), 1e-10)
        out[a, 0] += s * d0
        out[a, 1] += s * d1
        out[a, 2] += s * d2
        out[b, 0] -= s * d0
        out[b, 1] -= s * d1
        out[b, 2] -= s * d2


@jit
def sum_vector_messages(
    near: Integers, spline: Floats, count: int, unit: Floats, table: Floats,
    sent: Floats, v: Floats, scalars: Floats, vectors: Floats,
) -> None:  # fmt: skip
    r"""Adds the messages of PaiNN to ``scalars`` (n, F) and ``vectors`` (n, 3, F).

    :math:`\Delta s_i=\sum_jW^1\phi^1_j`, :math:`\Delta v_i=\sum_jW^0\phi^0_jv_j+W^2\phi^2_j\hat r_{ij}` with ``sent``
    :math:`\phi` (n, 3 F) and ``v`` (n, 3, F); the table holds :math:`W^0,W^1,W^2` side by side, (cells + 3, 3 F).
    """
    width, value = v.shape[2], spline[0]
    w = np.empty(3 * width, table.dtype)
    for e in range(count):
        a, b, k = near[0, e], near[1, e], near[2, e]
        b0, b1, b2, b3 = value[e, 0], value[e, 1], value[e, 2], value[e, 3]
        t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
        for f in range(3 * width):
            w[f] = b0 * t0[f] + b1 * t1[f] + b2 * t2[f] + b3 * t3[f]
        pa, pb, sa, sb = sent[a], sent[b], scalars[a], scalars[b]
        for f in range(width):
            sa[f] += w[width + f] * pb[width + f]
            sb[f] += w[width + f] * pa[width + f]
        for x in range(3):
            u, va, vb, ma, mb = unit[e, x], v[a, x], v[b, x], vectors[a, x], vectors[b, x]
            for f in range(width):
                ma[f] += w[f] * pb[f] * vb[f] + w[2 * width + f] * pb[2 * width + f] * u
                mb[f] += w[f] * pa[f] * va[f] - w[2 * width + f] * pa[2 * width + f] * u


@jit
def pull_vector_messages(
    near: Integers, spline: Floats, count: int, unit: Floats, table: Floats, sent: Floats, v: Floats,
    gs: Floats, gv: Floats, sent_grad: Floats, v_grad: Floats, dr: Floats, du: Floats,
) -> None:  # fmt: skip
    """The reverse of :func:`sum_vector_messages` for gradients ``gs`` (n, F) and ``gv`` (n, 3, F) by its two results.

    Adds gradients to ``sent_grad`` (n, 3 F) and ``v_grad`` (n, 3, F), and by distance and direction to ``dr`` (E,) and ``du`` (E, 3).
    """
    width = v.shape[2]
    w, slope, product = np.empty(3 * width, table.dtype), np.empty(3 * width, table.dtype), np.empty(3 * width, table.dtype)
    zero = spline.dtype.type(0)
    for e in range(count):
        b0, b1, b2, b3 = spline[0, e, 0], spline[0, e, 1], spline[0, e, 2], spline[0, e, 3]
        s0, s1, s2, s3 = spline[1, e, 0], spline[1, e, 1], spline[1, e, 2], spline[1, e, 3]
        k = near[2, e]
        t0, t1, t2, t3 = table[k], table[k + 1], table[k + 2], table[k + 3]
        for f in range(3 * width):
            w[f] = b0 * t0[f] + b1 * t1[f] + b2 * t2[f] + b3 * t3[f]
            slope[f] = s0 * t0[f] + s1 * t1[f] + s2 * t2[f] + s3 * t3[f]
        for way in range(2):  # once with either end as the receiver
            i, j, sign = near[way, e], near[1 - way, e], 1 - 2 * way
            pj, gi, out = sent[j], gs[i], sent_grad[j]
            for f in range(width):
                product[f] = product[2 * width + f] = zero
                product[width + f] = gi[f]
            for x in range(3):
                u, g, vj, back = sign * unit[e, x], gv[i, x], v[j, x], v_grad[j, x]
                along = zero
                for f in range(width):
                    product[f] += g[f] * vj[f]
                    product[2 * width + f] += g[f] * u
                    back[f] += w[f] * pj[f] * g[f]
                for f in range(width):
                    along += w[2 * width + f] * pj[2 * width + f] * g[f]
                du[e, x] += sign * along
            total = zero
            for f in range(3 * width):
                out[f] += w[f] * product[f]
                total += slope[f] * pj[f] * product[f]
            dr[e] += total


@jit
def pair_directions(vector: Floats, count: int, unit: Floats) -> None:
    """Unit vectors (E, 3) of the pairs, zero for particles in one place."""
    for e in range(count):
        d0, d1, d2 = vector[e, 0], vector[e, 1], vector[e, 2]
        s = 1 / max(np.sqrt(d0 * d0 + d1 * d1 + d2 * d2), 1e-10)
        unit[e, 0], unit[e, 1], unit[e, 2] = s * d0, s * d1, s * d2


@jit
def pair_vector_forces(near: Integers, vector: Floats, count: int, dr: Floats, du: Floats, out: Floats) -> None:
    r"""Adds to ``out`` (n, 3): :math:`F_i=\sum_j\partial_rE\,\hat r_{ij}+(1-\hat r_{ij}\hat r_{ij}^T)\,\partial_{\hat r}E/r_{ij}`."""
    for e in range(count):
        a, b = near[0, e], near[1, e]
        d0, d1, d2 = vector[e, 0], vector[e, 1], vector[e, 2]
        per = 1 / max(np.sqrt(d0 * d0 + d1 * d1 + d2 * d2), 1e-10)
        d0, d1, d2 = per * d0, per * d1, per * d2
        along = dr[e] - per * (du[e, 0] * d0 + du[e, 1] * d1 + du[e, 2] * d2)
        f0, f1, f2 = along * d0 + per * du[e, 0], along * d1 + per * du[e, 1], along * d2 + per * du[e, 2]
        out[a, 0] += f0
        out[a, 1] += f1
        out[a, 2] += f2
        out[b, 0] -= f0
        out[b, 1] -= f1
        out[b, 2] -= f2
