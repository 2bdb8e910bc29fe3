"""Classical potentials for long runs on a CPU: pair laws as fine tables that one compiled loop sums."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlmd import jit
from mlmd.neighbors.pairs import Pairs
from mlmd.potentials.accelerated_blocks import _sum_blocks
from mlmd.potentials.accelerated_bonded import NUMPY, AcceleratedBonded, Snapshot, can_be_accelerated
from mlmd.potentials.accelerated_splines import AcceleratedSplines, all_splines
from mlmd.potentials.compose import Potential, need_pairs
from mlmd.potentials.pair import CORE, PairPotential
from mlmd.store import configurable
from mlmd.system import System

FINEST = 12  # 2^12 intervals per doubling of r^2
FULL = (
    1.6  # blocks are summed while they are at most this many times the pairs; short rows, as in small molecules, leave lanes empty
)
REACHED = 10.0  # eV; errors are not measured at distances where the energy of one pair is above this


@dataclass(frozen=True, eq=False)
class HermiteTable:
    r"""Cubic polynomials of :math:`s=r^2` with :math:`2^b` intervals between s and 2 s, however small s: the first bits of the
    floating-point number s are the number of its interval (Wolff and Rudd, Comput. Phys. Commun. 120, 20 (1999)).

    rows (R K, 4): energy and its derivatives, coefficients of powers of s minus the start of the interval, for K intervals and R
    pairs of types; lowest: number of the first; bits: b; error: largest error of the force, relative to the largest force of the
    law between 0.9 r and the cutoff.
    """

    rows: NDArray[Any]
    lowest: int
    bits: int
    error: float


def tabulate(law: PairPotential, pairs_of_types: list[tuple[int, int]], bits: int) -> HermiteTable:
    """Value and slope of the law at the ends of all intervals from ``CORE`` to the cutoff, in double precision."""
    edges, lowest = _edges(law.cutoff, bits)
    inner = [edges[:-1] + q * np.diff(edges) for q in (0.21, 0.79)]  # where the slope of a cubic through four values errs most
    rows, error = [], 0.0
    for a, b in pairs_of_types:
        u, du = _in_square(law, edges, a, b)
        polynomials = _hermite(edges, u, du)
        rows.append(polynomials)
        error = max([error, *(_error(law, edges, polynomials, s, a, b) for s in inner)])
    return HermiteTable(np.concatenate(rows), lowest, bits, error)


def _edges(cutoff: float, bits: int) -> tuple[NDArray[np.float64], int]:
    """Squared distances where intervals begin, and at last the cutoff; the number of the first interval."""
    ends = np.array([CORE**2, cutoff**2], np.float32).view(np.int32) >> (23 - bits)
    numbers = np.arange(ends[0], ends[1] + 1, dtype=np.int32)
    edges = (numbers << (23 - bits)).view(np.float32).astype(np.float64)
    edges = edges[edges < cutoff**2 * (1.0 - 1e-9)]
    return np.append(edges, cutoff**2), int(ends[0])


def _in_square(law: PairPotential, s: NDArray[np.float64], a: int, b: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """u and du/ds of a law; at the cutoff from inside."""
    r = torch.from_numpy(np.minimum(np.sqrt(s), np.nextafter(law.cutoff, 0.0)))
    zi, zj = torch.full((len(r),), a), torch.full((len(r),), b)
    u, slope = law._slope(r, zi, zj)
    return u.double().numpy(), (slope.double() / (2.0 * r)).numpy()


def _hermite(s: NDArray[np.float64], u: NDArray[np.float64], du: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 4) coefficients of the cubics with the given values and slopes at both ends of every interval."""
    h, rise = np.diff(s), np.diff(u)
    c2 = (3.0 * rise / h - 2.0 * du[:-1] - du[1:]) / h
    c3 = (du[:-1] + du[1:] - 2.0 * rise / h) / h**2
    return np.stack([u[:-1], du[:-1], c2, c3], 1)


def _error(law: PairPotential, edges: NDArray[np.float64], c: NDArray[np.float64], s: NDArray[np.float64], a: int, b: int) -> float:
    """Largest error of the force at ``s``, one distance per interval, in units of the largest force between 0.9 r and the cutoff."""
    u, du = _in_square(law, s, a, b)
    t, r = s - edges[:-1], np.sqrt(s)
    force, wrong = np.abs(2 * r * du), np.abs(2 * r * (c[:, 1] + t * (2 * c[:, 2] + 3 * t * c[:, 3]) - du))
    beyond = np.maximum.accumulate(force[::-1])[::-1]
    scale = beyond[np.searchsorted(r, 0.9 * r)]
    counted = (np.abs(u) < REACHED) & (scale > 0) & (r > 2 * CORE)  # laws are clamped at CORE
    return float((wrong[counted] / scale[counted]).max()) if counted.any() else 0.0


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A table with what it was made for: the types present, their pairs (T, T) as first rows, and all numbers of the law."""

    table: HermiteTable
    types: Tensor
    kind: NDArray[np.int32]
    first: NDArray[np.int32]
    source: Snapshot

    def fits(self, types: Tensor, dtype: torch.dtype) -> bool:
        if self.table.rows.dtype != NUMPY[dtype] or not (self.types is types or torch.equal(self.types, types)):
            return False
        return self.source.holds()


@configurable
class Accelerated(Potential):
    r"""A pair law as a table in :math:`r^2`, summed over every pair once by a compiled loop when no graph is wanted, on a CPU.

    With a graph, for the stress, on a GPU and where numba is not installed it is the law itself. Energy and force come from
    the same piecewise cubic, so that dynamics conserves it. The table has the intervals that bring the error of the force
    below ``tolerance`` (at most 2^12 per doubling of r^2); :attr:`error` is what was reached. It is made anew when a
    parameter of the law has changed.

    Args:
        law: any pair law.
        tolerance: of the force, relative to the largest force of the law between 0.9 r and the cutoff.

    Raises:
        ValueError: if the law jumps within its range, so that no table follows it to one per cent.
    """

    def __init__(self, law: PairPotential, tolerance: float = 1e-6):
        super().__init__()
        if not isinstance(law, PairPotential):
            raise ValueError(f"law={type(law).__name__}: only pair laws can be tabulated, accelerated() takes other potentials")
        if not tolerance > 0:
            raise ValueError(f"tolerance={tolerance}: must be positive")
        self.law, self.tolerance, self.cutoff = law, float(tolerance), law.cutoff
        self._prepared: _Prepared | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_prepared": None}  # type: ignore[misc]

    @property
    def error(self) -> float:
        """Largest error of the force of the table in use, as ``tolerance`` measures it; NaN before the first use."""
        return float("nan") if self._prepared is None else self._prepared.table.error

    def forward(self, system: System, pairs: Pairs | None) -> Tensor:
        """Energy of every system, (S,), in eV: that of the law itself."""
        return self.law(system, pairs)

    def analytic(self, system: System, pairs: Pairs | None) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3) from the table."""
        pairs, x = need_pairs(pairs, self), system.positions.detach()
        if torch.compiler.is_compiling() or x.is_cuda or x.dtype not in NUMPY or not jit.available():
            return self.law.analytic(system, pairs)
        if self._prepared is None or not self._prepared.fits(system.types, x.dtype):
            self._prepared = self._prepare(system.types, x.dtype)
        ready, rows = self._prepared, pairs.rows
        energy, forces = np.zeros(system.n_systems), np.empty((len(x), 3), NUMPY[x.dtype])
        box = x.contiguous().numpy(), system.batch.numpy(), system.cell.detach().contiguous().numpy()
        law = ready.kind, ready.first, ready.table.rows, ready.table.lowest, ready.table.bits, self.cutoff**2
        receiver, sender = rows.blocks
        if len(sender) < FULL * len(rows) and len(ready.table.rows) < 2**24:
            _sum_blocks(*box, rows.n_rows, receiver, sender, rows.parent, rows.image, *law, energy, forces)
        else:
            _sum_pairs(*box, rows.shifted, rows.start, rows.sender, rows.parent, rows.image, *law, energy, forces)
        return torch.from_numpy(energy.astype(forces.dtype)), torch.from_numpy(forces)

    def _prepare(self, types: Tensor, dtype: torch.dtype) -> _Prepared:
        present, kind = torch.unique(types, return_inverse=True)
        n = len(present)
        upper = [(i, j) for i in range(n) for j in range(i, n)]
        named = [(int(present[i]), int(present[j])) for i, j in upper]
        table = tabulate(self.law, named, bits := 8 if dtype == torch.float32 else 10)
        while table.error > self.tolerance and bits < FINEST:  # the error falls by eight from b to b + 1 if the law is smooth
            bits = min(FINEST, bits + math.ceil(math.log(table.error / self.tolerance, 8)))
            table = tabulate(self.law, named, bits)
        if table.error > 0.01:
            raise ValueError(
                f"law={type(self.law).__name__}: the forces of its table are off by {table.error:.2g}, the law jumps below its "
                f"cutoff {self.cutoff:g} A: smooth it, or use it without acceleration"
            )
        row = np.zeros((n, n), np.int64)
        for k, (i, j) in enumerate(upper):
            row[i, j] = row[j, i] = k
        square = table.rows.reshape(len(upper), -1, 4)[row].astype(NUMPY[dtype])  # (T, T, K, 4), so that rows are numbered simply
        first = np.arange(n * n, dtype=np.int32).reshape(n, n) * square.shape[2]
        table = HermiteTable(np.ascontiguousarray(square.reshape(-1, 4)), table.lowest, table.bits, table.error)
        return _Prepared(table, types, kind.to(torch.int32).numpy(), first, Snapshot(list(self.law.modules())))

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._prepared = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._prepared = None
        super()._load_from_state_dict(*args, **kwargs)


def accelerated(potential: nn.Module, tolerance: float = 1e-6) -> nn.Module:
    """The same potential with every pair law in it replaced by :class:`Accelerated` of it, and harmonic bonds and angles by
    :class:`AcceleratedBonded`, splines of bonds, angles and dihedrals by :class:`AcceleratedSplines`; parameters are shared, not copied.

    Sums, scaled, shifted and excluding potentials are searched; what has no compiled loop stays as it is.
    """
    if isinstance(potential, PairPotential):
        return Accelerated(potential, tolerance)
    if can_be_accelerated(potential):
        return AcceleratedBonded(potential)  # type: ignore[arg-type]
    if all_splines(potential):
        return AcceleratedSplines(potential)  # type: ignore[arg-type]
    if isinstance(potential, (Accelerated, AcceleratedBonded, AcceleratedSplines)):
        return potential
    inside = {name: accelerated(child, tolerance) for name, child in potential.named_children()}
    if all(child is potential._modules[name] for name, child in inside.items()):
        return potential
    out = copy.copy(potential)
    out._modules = {**potential._modules, **inside}
    return out


@jit.jit
def _sum_pairs(x, batch, cell, shifted, start, sender, parent, image, kind, first, table, lowest, bits, reach, energy, forces):
    """Energy per system and forces of a table over rows; images get their own forces, which are added to their parents' at the end."""
    n, n_rows, n_all = len(x), len(start) - 1, len(parent)
    at, pull = np.empty((n_all, 4), x.dtype), np.zeros((n_all, 4), x.dtype)
    of = np.empty(n_all, np.int32)
    for k in range(n_all):
        j = parent[k]
        at[k, 0], at[k, 1], at[k, 2] = x[j, 0], x[j, 1], x[j, 2]
        of[k] = kind[j]
        if shifted:
            a, b, c, box = image[k, 0], image[k, 1], image[k, 2], cell[batch[j]]
            if a != 0 or b != 0 or c != 0:
                for d in range(3):
                    at[k, d] += a * box[0, d] + b * box[1, d] + c * box[2, d]
    longest = 0
    for i in range(n_rows):
        longest = max(longest, start[i + 1] - start[i])
    near, vector = np.empty(longest + 1, np.uint32), np.empty((longest + 1, 4), x.dtype)
    drop, several, squared = 23 - bits, first.shape[0] > 1, x.dtype.type(reach)
    for i in range(n_rows):
        xi, yi, zi, of_i = at[i, 0], at[i, 1], at[i, 2], of[i]
        fx = fy = fz = total = x.dtype.type(0)
        count = 0
        for p in range(start[i], start[i + 1]):  # pairs in reach, without a branch: which ones are cannot be predicted
            k = sender[p]
            dx, dy, dz = at[k, 0] - xi, at[k, 1] - yi, at[k, 2] - zi
            s = dx * dx + dy * dy + dz * dz
            near[count] = k
            vector[count, 0], vector[count, 1], vector[count, 2], vector[count, 3] = dx, dy, dz, s
            count += s < squared
        for p in range(count):
            k, dx, dy, dz, s = near[p], vector[p, 0], vector[p, 1], vector[p, 2], vector[p, 3]
            number = np.float32(s).view(np.int32) >> drop
            t = s - np.int32(number << drop).view(np.float32)
            q = max(number - lowest, 0)
            if several:
                q += first[of_i, of[k]]
            q = np.uint32(q)
            c1, c2, c3 = table[q, 1], table[q, 2], table[q, 3]
            total += table[q, 0] + t * (c1 + t * (c2 + t * c3))
            w = c1 + t * (c2 + c2 + t * (c3 + c3 + c3))
            w += w
            px, py, pz = w * dx, w * dy, w * dz
            fx += px
            fy += py
            fz += pz
            pull[k, 0] -= px
            pull[k, 1] -= py
            pull[k, 2] -= pz
        pull[i, 0] += fx
        pull[i, 1] += fy
        pull[i, 2] += fz
        energy[batch[i]] += total
    for k in range(n_rows, n_all):
        j = parent[k]
        for d in range(3):
            pull[j, d] += pull[k, d]
    for i in range(n):
        for d in range(3):
            forces[i, d] = pull[i, d] if i < n_rows else x.dtype.type(0)
