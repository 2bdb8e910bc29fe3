"""Potentials linear in their coefficients: cubic B-splines on uniform knots, and interpolated tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlmd.neighbors.pairs import Pairs
from mlmd.potentials.compose import need_pairs
from mlmd.potentials.pair import PairPotential
from mlmd.store import configurable
from mlmd.system import System

# Cubic B-spline pieces on one interval as polynomials of t in [0, 1]: rows are the four functions alive there, columns 1, t, t^2, t^3.
_PIECES = torch.tensor([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]], dtype=torch.float64) / 6.0


class UniformKnots(nn.Module):
    """Cubic B-splines on ``intervals`` equal intervals of [start, stop]: which four are alive at x, and their values there.

    Args:
        start, stop: ends of the range; intervals: number of knot intervals; periodic: whether stop is start again.
    """

    pieces: Tensor

    def __init__(self, start: float, stop: float, intervals: int, periodic: bool = False):
        super().__init__()
        if not start < stop:
            raise ValueError(f"start={start}, stop={stop}: the range is empty")
        if intervals < 4:
            raise ValueError(f"intervals={intervals}: at least 4 are needed")
        self.start, self.stop, self.intervals, self.periodic = float(start), float(stop), int(intervals), periodic
        self.spacing = (self.stop - self.start) / self.intervals
        self.size = intervals if periodic else intervals + 3
        self.register_buffer("pieces", _PIECES.clone(), persistent=False)

    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the interval of ``x`` (P,), and the place in it in units of its width: in [0, 1] but beyond the ends."""
        s = (x - self.start) / self.spacing
        if self.periodic:
            s = s - self.intervals * (s / self.intervals).detach().floor()
        k = s.detach().floor().clamp(0, self.intervals - 1)
        return k.long(), s - k

    def alive(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Index (P, 4), value (P, 4) and slope (P, 4) of the functions alive at ``x`` (P,).

        Outside the range of knots that are not periodic, the functions go on as straight lines.
        """
        k, t = self.locate(x)
        inside = t.clamp(0.0, 1.0)[:, None]
        c = self.pieces.to(x.dtype)
        value = c[:, 0] + inside * (c[:, 1] + inside * (c[:, 2] + inside * c[:, 3]))
        slope = c[:, 1] + inside * (2.0 * c[:, 2] + inside * (3.0 * c[:, 3]))
        value = value + slope * (t[:, None] - inside)
        index = k[:, None] + torch.arange(4, device=x.device)
        return (index % self.intervals if self.periodic else index), value, slope / self.spacing

    def combine(self, x: Tensor, coefficients: Tensor, row: Tensor | None = None) -> Tensor:
        """Spline values (P,) from coefficients (size,), or from rows (P,) of coefficients (R, size)."""
        (c0, c1, c2, c3), t = self._cubics(x, coefficients, row)
        inside = t.clamp(0.0, 1.0)
        value = c0 + inside * (c1 + inside * (c2 + inside * c3))
        if self.periodic:
            return value
        slope = c1 + inside * (2.0 * c2 + inside * (3.0 * c3))
        return value + slope * (t - inside)

    def combine_with_slope(self, x: Tensor, coefficients: Tensor, row: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spline values (P,) and their derivatives (P,), as :meth:`combine` would give and differentiate them."""
        (c0, c1, c2, c3), t = self._cubics(x, coefficients, row)
        inside = t.clamp(0.0, 1.0)
        value = c0 + inside * (c1 + inside * (c2 + inside * c3))
        slope = c1 + inside * (2.0 * c2 + inside * (3.0 * c3))
        return value + slope * (t - inside), slope / self.spacing

    def polynomials(self, coefficients: Tensor) -> Tensor:
        """(intervals, 4) coefficients of powers of the place in each interval; of R rows of coefficients (R, size), (R intervals, 4)."""
        c = torch.cat([coefficients, coefficients[..., :3]], -1) if self.periodic else coefficients
        return (c.unfold(-1, 4, 1) @ self.pieces.to(c.dtype)).reshape(-1, 4)

    def _cubics(self, x: Tensor, coefficients: Tensor, row: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """Four coefficients (P,) of the polynomial that holds at ``x``, in powers of t, and t."""
        polynomials = self.polynomials(coefficients.to(x.dtype))
        k, t = self.locate(x)
        k = k if row is None else k + row * self.intervals
        return polynomials.index_select(0, k).unbind(1), t

    def design_matrix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Basis functions and their derivatives, (P, size) each: u(x) = B c, u'(x) = B' c."""
        index, value, slope = self.alive(x)
        zero = x.new_zeros(len(x), self.size)
        return zero.scatter_add(1, index, value), zero.scatter_add(1, index, slope)

    def interpolate(self, values: Tensor, slopes: tuple[float | None, float | None] = (None, None)) -> Tensor:
        """Coefficients of the spline through ``values`` at the knots (intervals + 1; intervals if periodic).

        Args:
            values: wanted at start, start + spacing, ...
            slopes: derivative at the two ends; None asks for zero curvature there (natural).
        """
        n = self.intervals + (0 if self.periodic else 1)
        if tuple(values.shape) != (n,):
            raise ValueError(f"values has shape {tuple(values.shape)}: one value per knot is needed, ({n},)")
        y = values.detach().double()
        if self.periodic:
            A = torch.zeros(n, n, dtype=torch.float64)
            k = torch.arange(n)
            for offset, weight in enumerate((1.0, 4.0, 1.0)):
                A[k, (k + offset) % n] = weight / 6.0
            return torch.linalg.solve(A, y)
        from scipy.linalg import solve_banded

        ends = [_end_condition(s, self.spacing) for s in slopes]
        rows = np.zeros((5, n + 2))  # scipy's banded storage: rows[2 + i - j, j] = A[i, j]
        right = np.concatenate([[ends[0][1]], y.numpy(), [ends[1][1]]])
        for offset, weight in enumerate((1.0, 4.0, 1.0)):
            i = np.arange(1, n + 1)
            rows[2 + 1 - offset, i - 1 + offset] = weight / 6.0
        for offset in range(3):
            rows[2 - offset, offset] = ends[0][0][offset]
            rows[2 + 2 - offset, n - 1 + offset] = ends[1][0][offset]
        return torch.from_numpy(solve_banded((2, 2), rows, right))


def _end_condition(slope: float | None, spacing: float) -> tuple[tuple[float, float, float], float]:
    """Weights of the three functions alive at an end, and their wanted sum: zero curvature or a given slope."""
    return ((1.0, -2.0, 1.0), 0.0) if slope is None else ((-0.5, 0.0, 0.5), float(slope) * spacing)


@configurable
class CubicSpline1D(nn.Module):
    r"""A trainable function :math:`u(x)=\sum_k c_kB_k(x)` of one variable, for bonds, angles and dihedrals.

    Twice continuously differentiable; straight lines outside the range, or periodic.

    Args:
        start, stop, intervals, periodic: see :class:`UniformKnots`.
        coefficients: (size,), default zero.
    """

    def __init__(
        self,
        start: float,
        stop: float,
        intervals: int,
        periodic: bool = False,
        coefficients: Sequence[float] | Tensor | None = None,
    ):
        super().__init__()
        self.knots = UniformKnots(start, stop, intervals, periodic)
        self.coefficients = nn.Parameter(_coefficients(coefficients, (self.knots.size,)))

    @staticmethod
    def through(x: Any, y: Any, periodic: bool = False, slopes: tuple[float | None, float | None] = (None, None)) -> CubicSpline1D:
        """The spline through points on a uniform grid; a periodic grid holds its first point once more at its end."""
        x, y = torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(y, dtype=torch.float64)
        intervals = _uniform(x, y)
        spline = CubicSpline1D(float(x[0]), float(x[-1]), intervals, periodic)
        spline.coefficients.data = spline.knots.interpolate(y[:-1] if periodic else y, slopes)
        return spline

    def forward(self, x: Tensor) -> Tensor:
        """u(x), of the shape of ``x``."""
        return self.knots.combine(x.reshape(-1), self.coefficients).reshape(x.shape)

    def design_matrix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B and dB/dx, (P, size) each, for ``x`` (P,)."""
        return self.knots.design_matrix(x)


@configurable
class CubicSplinePair(PairPotential):
    r"""Pair potential :math:`u_{ab}(r)=\sum_kc^{ab}_kB_k(r)`, linear in its trainable coefficients, one row per pair of types.

    The last three functions of the basis are left out, so that u, u' and u'' vanish at the cutoff; below ``start`` u goes on as a
    straight line. Pairs of types without a row do not interact.

    Args:
        start: first knot in A; cutoff: last knot in A; intervals: number of knot intervals.
        types: pairs of types that interact, default [(0, 0)].
        coefficients: (R, intervals), default zero.
    """

    table: Tensor

    def __init__(
        self,
        start: float,
        cutoff: float,
        intervals: int,
        types: Sequence[tuple[int, int]] = ((0, 0),),
        coefficients: Sequence[Sequence[float]] | Tensor | None = None,
    ):
        super().__init__(cutoff, cutoff)
        self.knots = UniformKnots(start, cutoff, intervals)
        self.types = [(int(a), int(b)) for a, b in types]
        self.register_buffer("table", type_table(self.types), persistent=False)
        self.coefficients = nn.Parameter(_coefficients(coefficients, (len(self.types), intervals)))

    def _padded(self) -> Tensor:
        """(R + 1, intervals + 3): the dropped functions, and a last row for pairs of types that do not interact."""
        return nn.functional.pad(self.coefficients, (0, 3, 0, 1))

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        return self.knots.combine(r, self._padded(), rows_of(self.table, zi, zj))

    def design_matrix(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """B and dB/dr, (P, intervals) each, the same for every pair of types; zero beyond the cutoff."""
        value, slope = self.knots.design_matrix(r.clamp(max=self.cutoff))
        return value[:, : self.knots.intervals], slope[:, : self.knots.intervals]

    def set_values(self, u: Tensor, types: tuple[int, int] = (0, 0)) -> None:
        """Make the spline of one pair of types follow ``u`` (intervals + 1 values at the knots) in the least-squares sense."""
        if types not in self.types and types[::-1] not in self.types:
            raise ValueError(f"types={types}: not among the pairs of types {self.types}")
        row = self.types.index(types) if types in self.types else self.types.index(types[::-1])
        r = self.knots.start + self.knots.spacing * torch.arange(self.knots.intervals + 1, dtype=torch.float64)
        c = torch.linalg.lstsq(self.design_matrix(r)[0], torch.as_tensor(u).double()[:, None]).solution[:, 0]
        self.coefficients.data[row] = c.to(self.coefficients)


@configurable
class TabulatedPair(PairPotential):
    """Pair potential through the points of a table: cubic splines between, straight below the first, zero beyond the last.

    The table is shifted so that it ends at zero, and ends there with zero slope: energy and force are continuous, and the forces
    of the table are kept but for its last interval.

    Args:
        r: (K,) uniform distances in A, the last is the cutoff.
        u: (K,) energies in eV, or a mapping from pairs of types to (K,); other pairs of types do not interact.
    """

    table: Tensor
    coefficients: Tensor

    def __init__(self, r: Any, u: Any):
        r = torch.as_tensor(r, dtype=torch.float64)
        columns = u if isinstance(u, Mapping) else {(0, 0): u}
        values = {(int(a), int(b)): torch.as_tensor(v, dtype=torch.float64) for (a, b), v in columns.items()}
        intervals = [_uniform(r, v) for v in values.values()]
        super().__init__(float(r[-1]), float(r[-1]))
        self.knots = UniformKnots(float(r[0]), float(r[-1]), intervals[0])
        self.types = list(values)
        rows = [self.knots.interpolate(v - v[-1], (None, 0.0)) for v in values.values()]
        self.register_buffer("table", type_table(self.types), persistent=False)
        self.register_buffer("coefficients", nn.functional.pad(torch.stack(rows), (0, 0, 0, 1)))

    def pair(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
        """u(r), (P,), in eV."""
        return self.knots.combine(r, self.coefficients, rows_of(self.table, zi, zj))


def type_table(types: Sequence[tuple[int, int]]) -> Tensor:
    """(T + 1, T + 1) row number of every pair of types; the number ``len(types)`` stands for pairs that are not listed."""
    none = len(types)
    size = 2 + max(max(pair) for pair in types)
    table = torch.full((size, size), none)
    for row, (a, b) in enumerate(types):
        if min(a, b) < 0:
            raise ValueError(f"types hold ({a}, {b}): types are not negative")
        if int(table[a, b]) != none:
            raise ValueError(f"types hold ({a}, {b}) twice: every unordered pair of types has one row")
        table[a, b] = table[b, a] = row
    return table


def rows_of(table: Tensor, zi: Tensor, zj: Tensor) -> Tensor:
    """(P,) row of every pair; types beyond the table do not interact."""
    size = table.shape[0]
    return table.reshape(-1).index_select(0, zi.clamp(max=size - 1) * size + zj.clamp(max=size - 1))


def design_forces(law: CubicSplinePair, system: System, pairs: Pairs | None) -> Tensor:
    r"""Forces of every coefficient set to one, (R, intervals, N, 3): :math:`F_i=\sum_k c_k\,\sum_jB_k'(r_{ij})\hat r_{ij}`.

    The matrix of least-squares force matching (Izvekov and Voth, J. Phys. Chem. B 109, 2469 (2005)).
    """
    half = need_pairs(pairs, law).half
    i, j = half.index
    d = half.vectors(system)
    r = d.norm(dim=-1)
    inside = r < law.cutoff
    i, j, d, r = i[inside], j[inside], d[inside], r[inside]
    row = rows_of(law.table, system.types[i], system.types[j])
    n, K = len(system), law.knots.intervals
    index, _, slope = law.knots.alive(r)
    out = d.new_zeros((len(law.types) + 1) * (K + 3) * n, 3)
    for k in range(4):
        f = slope[:, k, None] * d / r[:, None].clamp(min=1e-10)
        at = (row * (K + 3) + index[:, k]) * n
        out.index_add_(0, at + i, f).index_add_(0, at + j, -f)
    return out.reshape(len(law.types) + 1, K + 3, n, 3)[:-1, :K]


def _coefficients(given: Any, shape: tuple[int, ...]) -> Tensor:
    if given is None:
        return torch.zeros(shape, dtype=torch.float64)
    c = torch.as_tensor(given, dtype=torch.float64).clone()
    if tuple(c.shape) != shape:
        raise ValueError(f"coefficients has shape {tuple(c.shape)}, expected {shape}")
    return c


def _uniform(x: Tensor, y: Tensor) -> int:
    """Number of intervals of a uniform grid, checked."""
    if x.ndim != 1 or len(x) < 5 or x.shape != y.shape:
        raise ValueError(f"a table of shapes {tuple(x.shape)} and {tuple(y.shape)}: give two columns of at least 5 points")
    if not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise ValueError("the table holds values that are not finite: cut or extrapolate its core first")
    step = x.diff()
    if not bool((step > 0).all()) or float(step.max() - step.min()) > 1e-3 * float(step.mean()):
        raise ValueError("the distances of the table are not a uniform increasing grid: resample it first")
    return len(x) - 1
