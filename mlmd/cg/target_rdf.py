"""The structure that a bead potential shall reproduce: tabulated g(r), one per pair of bead types, checked before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mlmd.cell import check_cutoff
from mlmd.cg.pair_splines import PairSplines
from mlmd.frames import Frames
from mlmd.observables.rdf import rdf
from mlmd.system import System

Array = NDArray[np.float64]
NEAREST_PEAK = 1.5  # A; beads that are not bonded are further apart
LOOSEST, DENSEST = 0.3, 3.0  # first peak in units of density^(-1/3); simple liquids: 0.9 to 1.1


@dataclass(frozen=True, eq=False)
class TargetRDF:
    r"""Radial distribution functions on uniform bins, averages over shells :math:`[r-\Delta/2,r+\Delta/2]` normalised by the ideal gas.

    r (B,): centres in A, beginning above 0; bins below the table are filled in with g = 0. g (R, B): one row per pair of types.
    """

    r: Array
    g: Array
    types: tuple[tuple[int, int], ...] = ((0, 0),)

    def __post_init__(self) -> None:
        r, g = np.asarray(self.r, np.float64), np.atleast_2d(np.asarray(self.g, np.float64))
        if r.ndim != 1 or len(r) < 5 or g.shape != (len(self.types), len(r)):
            raise ValueError(
                f"r has shape {r.shape} and g {g.shape}: give (B,) and one row (B,) for each of {len(self.types)} pairs of types"
            )
        if not (np.isfinite(r).all() and np.isfinite(g).all()) or (g < 0).any() or (r < 0).any():
            raise ValueError("r and g must be finite and not negative: remove those rows of the table")
        step = np.diff(r)
        if not (step > 0).all() or np.ptp(step) > 1e-3 * step.mean():
            raise ValueError("r is not a uniform increasing grid: g(r) is averaged over bins of one width, histogram it so")
        r = np.linspace(r[0], r[-1], len(r))
        width = r[1] - r[0]
        below = max(0, int(np.ceil(r[0] / width - 1e-6)) - 1)
        object.__setattr__(self, "r", np.concatenate([r[0] - width * np.arange(below, 0, -1), r]))
        object.__setattr__(self, "g", np.pad(g, ((0, 0), (below, 0))))
        for pair, row in zip(self.types, self.g):
            _check_row(pair, self.r, row)

    @staticmethod
    def read(path: str | Path, *, length: float, types: tuple[int, int] = (0, 0)) -> TargetRDF:
        """The first two columns of a text file: r in units of ``length`` (in A; 10 for nm) and g(r); further columns are not read."""
        table = np.loadtxt(path, usecols=(0, 1), ndmin=2)
        return TargetRDF(table[:, 0] * length, table[:, 1], (types,))

    @staticmethod
    def of(frames: Frames, *, r_max: float, bins: int, types: tuple[tuple[int, int], ...] = ((0, 0),)) -> TargetRDF:
        """Measured on reference frames of beads in a periodic box, up to ``r_max`` in A."""
        rows = [rdf(frames, r_max=r_max, bins=bins, between=pair) for pair in types]
        return TargetRDF(rows[0].r, np.stack([row.g for row in rows]), types)

    @property
    def width(self) -> float:
        """Width of a bin in A."""
        return float(self.r[1] - self.r[0])

    @cached_property
    def edges(self) -> Array:
        """(B + 1,) edges of the bins in A."""
        return np.append(self.r - self.width / 2, self.r[-1] + self.width / 2).clip(min=0.0)

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """(R, B) where g > 0: only there it says anything about the potential."""
        return self.g > 0

    @property
    def start(self) -> float:
        """Centre in A of the first bin in which any g is positive."""
        return float(self.r[self.sampled.any(0).argmax()])

    def basis(self, cutoff: float, intervals: int | None = None) -> PairSplines:
        """Splines from the first sampled bin to ``cutoff`` in A, with a knot in the middle of every bin unless ``intervals`` are given.

        Raises:
            ValueError: if the target ends before the cutoff.
        """
        if cutoff > self.edges[-1]:
            raise ValueError(
                f"the target g(r) ends at {self.edges[-1]:g} A, before the cutoff={cutoff:g} A: "
                "measure it further out or choose a shorter cutoff"
            )
        intervals = round((cutoff - self.start) / self.width) if intervals is None else intervals
        return PairSplines(self.start, cutoff, intervals, self.types)

    def pair_counts(self, system: System, left_out: Array | float = 0.0) -> Array:
        """(R, B) number of pairs per bin of an ideal gas in the box of ``system``, each pair once: n_pairs v_b / V; ``left_out`` (R,)
        pairs of every kind are not counted."""
        number = [int((system.types == t).sum()) for t in range(int(system.types.max()) + 1)]
        volume = float(torch.linalg.det(system.cell[0].double()).abs())
        shells = 4 / 3 * np.pi * np.diff(self.edges**3) / volume
        pairs = np.array([_pairs_of(pair, number) for pair in self.types]) - left_out
        return pairs[:, None] * shells

    def fits(self, system: System) -> None:
        """Refuse a box in which this target cannot be measured or to which it does not belong.

        Raises:
            ValueError: no single periodic box, narrower than twice the range of the target; bead types that are missing; a first
                peak that is too near or too far for the density, as when nm are taken for A.
        """
        if system.n_systems != 1 or not bool(system.pbc.all()):
            raise ValueError(
                f"system holds {system.n_systems} boxes with pbc={system.pbc.tolist()}: give one box, periodic in all directions"
            )
        density = len(system) / float(torch.linalg.det(system.cell[0].double()).abs())
        peak = float(self.r[first_peak(self.g[0])])
        reduced = peak * density ** (1 / 3)
        if peak < NEAREST_PEAK and reduced < LOOSEST:
            raise ValueError(
                f"the first peak of the target is at {peak:g} A, {reduced:.2g} of the mean distance of the {density:.3g} beads per A^3: "
                "are its distances in nm? Read it with length=10"
            )
        if reduced > DENSEST:
            raise ValueError(
                f"the first peak of the target is at {peak:g} A but the box holds {density:.3g} beads per A^3, {reduced:.2g} mean distances "
                "away: is the box in nm? Multiply positions and cell by 10"
            )
        check_cutoff(system.cell, system.pbc, float(self.edges[-1]))
        self.pair_counts(system)


def first_peak(g: Array) -> int:
    """Index of the first maximum that is at least half as high as the highest."""
    inner = np.flatnonzero((g[1:-1] >= g[:-2]) & (g[1:-1] > g[2:]) & (g[1:-1] >= 0.5 * g.max())) + 1
    return int(inner[0]) if len(inner) else int(g.argmax())


def _check_row(pair: tuple[int, int], r: Array, g: Array) -> None:
    if not g.any():
        raise ValueError(f"g of the types {pair} is zero everywhere: nothing to reproduce")
    first = int((g > 0).argmax())
    empty = np.flatnonzero(g[first:] == 0) + first
    if len(empty):
        raise ValueError(
            f"g of the types {pair} is zero at r={r[empty[0]]:g} A and {len(empty)} empty bin(s) in all inside the sampled range, which begins at "
            f"{r[first]:g} A: use more frames or wider bins, or cut the table below the gap"
        )


def _pairs_of(pair: tuple[int, int], number: list[int]) -> float:
    a, b = (number[t] if t < len(number) else 0 for t in pair)
    if a * b == 0 or (pair[0] == pair[1] and a < 2):
        raise ValueError(f"types {pair}: the system holds {a} and {b} beads of them, there is no pair to count")
    return a * (a - 1) / 2 if pair[0] == pair[1] else float(a * b)
