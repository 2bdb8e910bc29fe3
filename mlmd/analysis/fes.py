"""Free energy surfaces over two collective variables, with block errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmd.observables.blocks import Array, as_array, block_labels, ratio
from mlmd.observables.histogram import block_histogram, wrap_to

Limits = tuple[tuple[float, float] | None, tuple[float, float] | None]


@dataclass(frozen=True, eq=False)
class FES:
    """F = -kT ln p on bins of two variables.

    | field | shape | unit |
    |---|---|---|
    | edges | (B1+1,), (B2+1,) | of the variables |
    | probability | B1 B2 | 1, summing to the fraction inside the edges |
    | free_energy | B1 B2 | eV, minimum 0, inf where no sample fell |
    | error | B1 B2 | eV, block standard error, nan where no sample fell |
    | counts | B1 B2 | samples |
    | kT | | eV |
    """

    edges: tuple[Array, Array]
    probability: Array
    free_energy: Array
    error: Array
    counts: Array
    kT: float

    @property
    def centers(self) -> tuple[Array, Array]:
        a, b = self.edges
        return (a[1:] + a[:-1]) / 2, (b[1:] + b[:-1]) / 2


def free_energy_surface(
    cv1: Any,
    cv2: Any,
    *,
    kT: float,
    bins: int = 60,
    periodic: tuple[bool, bool] = (True, True),
    ranges: Limits | None = None,
    weights: Any = None,
    n_blocks: int = 10,
) -> FES:
    """F(cv1, cv2) = -kT ln p of samples (T,) of one trajectory or (T, R) of replicas, minimum zero.

    Error: kT se(p) / p with se over blocks of time or replicas; first order, so an underestimate where few blocks hold samples.

    Args:
        kT: eV, positive; periodic: whether a variable is an angle in radian, wrapped to (-pi, pi) unless ``ranges`` says otherwise.
        ranges: first and last edge of each variable, default the range of the samples.
        weights: in the shape of the samples.
    """
    if not kT > 0:
        raise ValueError(f"kT={kT}: must be positive, in eV (300 * mlmd.units.kelvin)")
    a, b = as_array(cv1, "cv1"), as_array(cv2, "cv2")
    if a.shape != b.shape:
        raise ValueError(f"cv1 has shape {a.shape} and cv2 {b.shape}: they must describe the same samples")
    fes = surface_of(a, b, kT=kT, bins=bins, periodic=periodic, ranges=ranges, weights=weights, n_blocks=n_blocks)
    if not fes.counts.any():
        raise ValueError(f"ranges={ranges}: no sample lies inside")
    return fes


def surface_of(
    a: Array,
    b: Array,
    *,
    kT: float,
    bins: int,
    periodic: tuple[bool, bool],
    ranges: Limits | None,
    weights: Any = None,
    n_blocks: int = 10,
) -> FES:
    """As :func:`free_energy_surface` for arrays already checked; a surface on which nothing fell is infinite everywhere."""
    a, b, edges = binned_pair(a, b, bins, periodic, ranges)
    w = np.ones_like(a) if weights is None else as_array(weights, "weights")
    counts, totals, seen = block_histogram([a, b], list(edges), w, block_labels(a.shape, n_blocks))
    p, se = ratio(counts, totals)
    with np.errstate(divide="ignore", invalid="ignore"):
        f = np.where(p > 0, -kT * np.log(p / (p.max() or 1.0)), np.inf)
        error = np.where(p > 0, kT * se / p, np.nan)
    return FES(edges, p, f + 0.0, error, seen, kT)


def difference(a: FES, b: FES) -> tuple[Array, Array]:
    """a - b and its error on bins that both sampled (else nan), shifted so that its mean weighted by b's probability is zero.

    ``b`` is the reference. Free energies are known up to a constant; this choice does not hang on one bin as min = 0 does.
    """
    same = a.probability.shape == b.probability.shape and all(np.allclose(x, y) for x, y in zip(a.edges, b.edges))
    if not same:
        raise ValueError("the surfaces have different edges: histogram both with the same bins and ranges")
    both = (a.probability > 0) & (b.probability > 0)
    if not both.any():
        raise ValueError("the surfaces share no sampled bin")
    d = np.full(a.free_energy.shape, np.nan)
    d[both] = a.free_energy[both] - b.free_energy[both]
    d[both] -= np.average(d[both], weights=b.probability[both])
    return d, np.where(both, np.hypot(a.error, b.error), np.nan)


def binned_pair(
    a: Array, b: Array, bins: int, periodic: tuple[bool, bool], ranges: Limits | None
) -> tuple[Array, Array, tuple[Array, Array]]:
    """Wrapped values and edges of two variables."""
    out, edges = [], []
    for x, turns, limits in zip((a, b), periodic, ranges or (None, None)):
        if turns:
            limits = limits or (-np.pi, np.pi)
            x = wrap_to(x, limits)
        limits = limits or spread(x)
        if bins < 1 or not limits[1] > limits[0]:
            raise ValueError(f"bins={bins}, ranges={ranges}: need at least one bin and rising limits")
        out.append(x)
        edges.append(np.linspace(*limits, bins + 1))
    return out[0], out[1], (edges[0], edges[1])


def spread(*samples: Array) -> tuple[float, float]:
    """Range that holds all samples, never empty."""
    low, high = min(float(s.min()) for s in samples), max(float(s.max()) for s in samples)
    pad = 0.0 if high > low else max(abs(low), 1.0) * 1e-3
    return low - pad, high + pad
