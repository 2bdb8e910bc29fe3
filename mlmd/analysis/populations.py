"""Populations of named regions of one or more variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmd.observables.blocks import as_array, block_mean

_PI = float(np.pi)


@dataclass(frozen=True)
class Region:
    """A named box in the collective variables: one (low, high) for each, low < x < high; low > high wraps around a period.

    None leaves a variable free.
    """

    name: str
    bounds: tuple[tuple[float, float] | None, ...]

    def contains(self, *cvs: Any) -> np.ndarray:
        """Boolean array in the shape of the samples."""
        if len(cvs) != len(self.bounds):
            raise ValueError(f"region {self.name!r} bounds {len(self.bounds)} variables, {len(cvs)} were given")
        arrays = [as_array(c, "cvs") for c in cvs]
        inside = np.ones(arrays[0].shape, dtype=bool)
        for a, bound in zip(arrays, self.bounds):
            if bound is not None:
                low, high = bound
                inside &= ((a > low) & (a < high)) if low <= high else ((a > low) | (a < high))
        return inside

    def complement(self) -> Region | None:
        """Everything else, where that is a region again: a single bounded variable."""
        bounded = [k for k, b in enumerate(self.bounds) if b is not None]
        if len(bounded) != 1:
            return None
        low, high = self.bounds[bounded[0]] or (0.0, 0.0)
        outside = [None if k != bounded[0] else (high, low) for k in range(len(self.bounds))]
        return Region(f"not {self.name}", tuple(outside))


PHI_POSITIVE = Region("phi > 0", ((0.0, _PI), None))
ALPHA_R = Region("alpha_R", ((-_PI, 0.0), (-2.1, 0.9)))


@dataclass(frozen=True)
class Population:
    """Fraction of samples in a region, its block standard error, and the number of samples."""

    name: str
    fraction: float
    error: float
    n_samples: int


def population(region: Region, cvs: Sequence[Any], *, n_blocks: int = 10, weights: Any = None) -> Population:
    """Population of ``region``: <1(cvs in region)>, errors over blocks of time (T,) or replicas (T, R)."""
    inside = region.contains(*cvs)
    fraction, error = block_mean(inside.astype(float), n_blocks, weights)
    return Population(region.name, fraction, error, inside.size)


def population_difference(a: Population, b: Population) -> tuple[float, float]:
    """a - b in percentage points, and the combined standard error."""
    return 100 * (a.fraction - b.fraction), 100 * float(np.hypot(a.error, b.error))
