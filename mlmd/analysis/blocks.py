"""Averages with errors that know about correlation in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmd.observables.blocks import Array, as_array
from mlmd.observables.blocks import block_mean as block_average
from mlmd.observables.dynamics import autocorrelation_time

__all__ = ["BlockingCurve", "block_average", "flyvbjerg_petersen", "statistical_inefficiency"]


@dataclass(frozen=True, eq=False)
class BlockingCurve:
    """Standard error of the mean against block size: size (L,) in frames, error (L,), uncertainty of the error (L,)."""

    size: Array
    error: Array
    uncertainty: Array

    @property
    def plateau(self) -> float:
        """First error that agrees with all errors at larger blocks within their uncertainty; the largest if none does."""
        for k in range(len(self.size)):
            if (self.error[k:] - 2 * self.uncertainty[k:] <= self.error[k] + 2 * self.uncertainty[k]).all() and (
                k + 1 == len(self.size) or self.error[k + 1] <= self.error[k] + self.uncertainty[k]
            ):
                return float(self.error[k])
        return float(self.error.max())


def statistical_inefficiency(x: Any) -> float:
    """Samples per independent sample, g = 2 tau >= 1, of (T,), replicas (T, R) or vectors (T, R, d)."""
    return max(1.0, 2.0 * autocorrelation_time(x))


def flyvbjerg_petersen(x: Any) -> BlockingCurve:
    """Error of the mean by repeated pairwise averaging of one series (T,), down to two blocks.

    error_k = sqrt(c0 / (n_k - 1)), relative uncertainty 1 / sqrt(2 (n_k - 1)).

    Source:
        Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989).
    """
    a = as_array(x, "x")
    if a.ndim != 1 or len(a) < 4:
        raise ValueError(f"x has shape {a.shape}: the blocking curve needs one series of at least 4 frames")
    rows, size = [], 1
    while len(a) >= 2:
        n = len(a)
        error = np.sqrt(a.var() / (n - 1))
        rows.append((size, error, error / np.sqrt(2 * (n - 1))))
        a, size = (a[: n // 2 * 2 : 2] + a[1::2]) / 2, size * 2
    return BlockingCurve(*np.array(rows).T)
