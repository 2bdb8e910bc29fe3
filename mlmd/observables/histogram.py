"""Densities of one variable with block errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmd.observables.blocks import Array, as_array, block_labels, ratio


@dataclass(frozen=True, eq=False)
class Density1D:
    """Probability density on bins: edges (B+1,), density (B,) and its standard error, in 1 / unit of the variable.

    ``outside`` is the fraction of samples beyond the edges: the density integrates to 1 - outside.
    """

    edges: Array
    density: Array
    error: Array
    outside: float = 0.0
    n_samples: int = 0

    @property
    def centers(self) -> Array:
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def widths(self) -> Array:
        return np.diff(self.edges)

    @property
    def mean(self) -> float:
        """Mean from the bins (not meaningful for a periodic variable)."""
        p = self.density * self.widths
        return float((p * self.centers).sum() / p.sum())


def density(
    samples: Any,
    *,
    bins: int = 60,
    limits: tuple[float, float] | None = None,
    periodic: bool = False,
    weights: Any = None,
    n_blocks: int = 10,
    labels: np.ndarray | None = None,
) -> Density1D:
    """Histogram of samples (T,) of a trajectory or (T, R) of replicas, as a density (no sin or r^2 is divided out).

    p_b = sum of weights in bin b / (sum of weights * width); standard errors over blocks of time or replicas.

    Args:
        limits: first and last edge; default the range of the samples, or (-pi, pi) if ``periodic`` (values are then wrapped).
        weights: in the shape of the samples.
        labels: block number of every sample, in their shape, instead of ``n_blocks`` (for samples of another shape).
    """
    a = as_array(samples)
    if periodic:
        limits = (-np.pi, np.pi) if limits is None else limits
        a = wrap_to(a, limits)
    edges = np.linspace(*_limits(a, limits, bins), bins + 1)
    w = np.ones_like(a) if weights is None else as_array(weights, "weights")
    labels = block_labels(a.shape, n_blocks) if labels is None else labels
    counts, totals, _ = block_histogram([a], [edges], w, labels)
    p, error = ratio(counts, totals)
    width = np.diff(edges)
    return Density1D(edges, p / width, error / width, float(max(0.0, 1.0 - p.sum())), a.size)


def overlap(a: Density1D, b: Density1D) -> float:
    """Overlap coefficient sum_b min(p_b, q_b) of two densities on the same edges: 1 if equal, 0 if disjoint."""
    if a.edges.shape != b.edges.shape or not np.allclose(a.edges, b.edges):
        raise ValueError("the densities have different edges: histogram both with the same limits and bins")
    return float((np.minimum(a.density, b.density) * a.widths).sum())


def wrap_to(a: Array, limits: tuple[float, float]) -> Array:
    """Periodic values moved into [low, high)."""
    low, high = limits
    return low + np.mod(a - low, high - low)


def bin_index(a: Array, edges: Array) -> np.ndarray:
    """Bin of each value on equidistant edges, -1 outside; the last edge belongs to the last bin."""
    n = len(edges) - 1
    index = np.floor((a - edges[0]) * (n / (edges[-1] - edges[0]))).astype(np.int64)
    index[a == edges[-1]] = n - 1
    index[(index < 0) | (index >= n)] = -1
    return index


def block_histogram(
    variables: list[Array], edges: list[Array], weights: Array, labels: np.ndarray
) -> tuple[Array, Array, np.ndarray]:
    """Weight per block and bin (B, bins...), weight per block (B,), samples per bin (bins...)."""
    shape = tuple(len(e) - 1 for e in edges)
    flat = np.zeros(weights.size, dtype=np.int64)
    inside = np.ones(weights.size, dtype=bool)
    for a, e, n in zip(variables, edges, shape):
        index = bin_index(a.ravel(), e)
        inside &= index >= 0
        flat = flat * n + index
    size, label, w = int(np.prod(shape)), labels.ravel(), weights.ravel()
    n_blocks = int(label.max()) + 1
    counts = np.bincount(label[inside] * size + flat[inside], w[inside], minlength=n_blocks * size)
    seen = np.bincount(flat[inside], minlength=size).reshape(shape)
    return counts.reshape(n_blocks, *shape), np.bincount(label, w, minlength=n_blocks), seen


def _limits(a: Array, limits: tuple[float, float] | None, bins: int) -> tuple[float, float]:
    if bins < 1:
        raise ValueError(f"bins={bins}: at least one bin is needed")
    if limits is not None:
        low, high = map(float, limits)
        if not high > low:
            raise ValueError(f"limits={limits}: the second must be larger than the first")
        return low, high
    low, high = float(a.min()), float(a.max())
    pad = 0.0 if high > low else max(abs(low), 1.0) * 1e-3
    return low - pad, high + pad
