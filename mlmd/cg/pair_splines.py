"""The basis of all structure-based methods: cubic splines through values at uniform knots, one row per pair of bead types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mlmd.potentials.pair import PairPotential
from mlmd.potentials.spline import TabulatedPair, UniformKnots, type_table


@dataclass(frozen=True, eq=False)
class PairSplines:
    r"""Pair potentials :math:`u_{ab}(r)=\sum_kU^{ab}_kL_k(r)`, linear in their values :math:`U_k=u(r_k)` at the knots.

    :math:`L_k` is the cardinal cubic spline, one at knot k and zero at the others: natural at ``start`` and a straight line below
    it, zero in value and slope at the cutoff. The coefficients are therefore the table itself, and whatever gives a table can
    start whatever wants one. Pairs of types without a row do not interact.

    Args:
        start: first knot in A, where the sampled range begins; cutoff: last knot in A; intervals: I, number of knot intervals.
        types: R unordered pairs of types (a, b), one row each.

    Raises:
        ValueError: an empty range, fewer than 4 intervals, or a pair of types listed twice.
    """

    start: float
    cutoff: float
    intervals: int
    types: tuple[tuple[int, int], ...] = ((0, 0),)

    def __post_init__(self) -> None:
        UniformKnots(self.start, self.cutoff, self.intervals)
        if not self.types:
            raise ValueError("types is empty: name at least one pair of types, for instance ((0, 0),)")
        type_table(self.types)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, I) of the values."""
        return len(self.types), self.intervals

    @cached_property
    def knots(self) -> Tensor:
        """(I + 1,) distances of the knots in A; the last is the cutoff, where the value is zero and no coefficient."""
        return torch.linspace(self.start, self.cutoff, self.intervals + 1, dtype=torch.float64)

    @cached_property
    def _uniform(self) -> UniformKnots:
        return UniformKnots(self.start, self.cutoff, self.intervals)

    @cached_property
    def _to_b_splines(self) -> Tensor:
        """(I + 3, I): coefficients of B-splines from values."""
        ones = torch.eye(self.intervals + 1, dtype=torch.float64)[: self.intervals]
        return torch.stack([self._uniform.interpolate(row, (None, 0.0)) for row in ones], 1)

    def functions(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """L_k(r) and dL_k/dr at distances ``r`` (P,) in A: (P, I) each, the latter in 1/A; zero beyond the cutoff."""
        r = r.double()
        value, slope = self._uniform.design_matrix(r)
        inside = (r < self.cutoff)[:, None]
        return (value * inside) @ self._to_b_splines, (slope * inside) @ self._to_b_splines

    def law(self, values: Tensor) -> TabulatedPair:
        """The potential with the given values (R, I) in eV.

        Raises:
            ValueError: for another shape, or values that are not finite.
        """
        full = torch.nn.functional.pad(self.checked(values), (0, 1))
        return TabulatedPair(self.knots, dict(zip(self.types, full, strict=True)))

    def values_of(self, law: PairPotential) -> Tensor:
        """(R, I) values in eV of another pair potential at the knots, shifted so that it is zero at the cutoff.

        This is how one method starts from the result of another that used other knots.
        """
        r = torch.cat([self.knots[:-1], self.knots[-1:] * (1 - 1e-9)])
        rows = []
        with torch.no_grad():
            for a, b in self.types:
                u = law.value(r, torch.full((len(r),), a), torch.full((len(r),), b)).double()
                rows.append(u[:-1] - u[-1])
        return self.checked(torch.stack(rows))

    def values_of_table(self, r: Any, u: Any) -> Tensor:
        """(R, I) values from a table: uniform distances ``r`` (K,) in A and energies ``u`` (K,), or one column per pair of types, in eV.

        Raises:
            ValueError: a grid that is not uniform, or energies that are not finite.
        """
        columns = u if isinstance(u, Mapping) else {self.types[0]: u}
        return self.values_of(TabulatedPair(r, columns))

    def checked(self, values: Tensor) -> Tensor:
        """The values in double precision.

        Raises:
            ValueError: for another shape than (R, I), or values that are not finite.
        """
        values = torch.as_tensor(values).detach().double()
        if tuple(values.shape) != self.shape:
            raise ValueError(f"values has shape {tuple(values.shape)}: one per pair of types and knot is needed, {self.shape}")
        if not bool(torch.isfinite(values).all()):
            raise ValueError("values hold numbers that are not finite: cut or extrapolate the core of the table first")
        return values
