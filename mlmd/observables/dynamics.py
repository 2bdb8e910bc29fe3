"""Mean square displacement, velocity autocorrelation, correlation times; all time origins by fast Fourier transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mlmd.observables.blocks import Array, as_array


@dataclass(frozen=True, eq=False)
class MSD:
    """Mean square displacement: lag (L,) in frames, msd (L,) in A^2, standard error (nan where blocks are shorter), block curves (B, L)."""

    lag: Array
    msd: Array
    error: Array
    blocks: Array


@dataclass(frozen=True, eq=False)
class VACF:
    """Velocity autocorrelation <v(0).v(t)>: lag (L,) in frames, vacf (L,), standard error, block curves (B, L)."""

    lag: Array
    vacf: Array
    error: Array
    blocks: Array


def msd(positions: Tensor | Array, *, max_lag: int | None = None, n_blocks: int = 10) -> MSD:
    """MSD(k) = <|x(t + k) - x(t)|^2> over all time origins and particles, of unwrapped positions.

    Args:
        positions: (T, N, 3) of one trajectory or (T, R, N, 3) of replicas, A, unwrapped, drift of the centre of mass removed by
            the caller if it is not wanted.
        max_lag: largest lag in frames, default half the trajectory.

    Returns:
        Block errors: replicas if there are at least ``n_blocks``, else stretches of time, which leave nan at lags they do not hold.

    Source:
        Calandrini et al., Collection SFN 12, 201 (2011), the FFT algorithm for all origins.
    """
    x = _with_replicas(positions, "positions")
    lags = _lags(len(x), max_lag)
    mean = _msd_fft(x, lags).mean(1)
    blocks = _curves(x, lags, n_blocks, _msd_fft)
    return MSD(np.arange(lags, dtype=np.float64), mean, _standard_error(blocks), blocks)


def vacf(velocities: Tensor | Array, *, max_lag: int | None = None, n_blocks: int = 10) -> VACF:
    """C(k) = <v(t) . v(t + k)> over all origins and particles; C(0) = 3 kT/m at equilibrium.

    Args:
        velocities: (T, N, 3) or (T, R, N, 3), A/fs.
    """
    v = _with_replicas(velocities, "velocities")
    lags = _lags(len(v), max_lag)
    mean = _correlation(v, lags).mean(1)
    blocks = _curves(v, lags, n_blocks, _correlation)
    return VACF(np.arange(lags, dtype=np.float64), mean, _standard_error(blocks), blocks)


def diffusion_coefficient(curve: MSD, first: int, last: int) -> tuple[float, float]:
    """D and its standard error, A^2 per frame interval: least-squares slope of the MSD over lags first..last, divided by 6.

    Raises:
        ValueError: a window outside the curve or of fewer than two lags.
    """
    if not 0 <= first < last < len(curve.lag):
        raise ValueError(f"window {first} to {last} is not inside lags 0 to {len(curve.lag) - 1}")
    t = curve.lag[first : last + 1]
    t = (t - t.mean()) / ((t - t.mean()) ** 2).sum()
    slopes = curve.blocks[:, first : last + 1] @ t / 6
    slopes = slopes[np.isfinite(slopes)]
    error = float(slopes.std(ddof=1) / np.sqrt(len(slopes))) if len(slopes) > 1 else float("nan")
    return float(curve.msd[first : last + 1] @ t / 6), error


def autocorrelation_time(x: Any, *, window: float = 5.0) -> float:
    """Integrated autocorrelation time in frames: tau = 1/2 + sum_{k=1}^{W} rho(k), W the first with W >= window * tau.

    White noise gives 1/2; the statistical inefficiency is 2 tau. Vectors (the last axis of (T, R, d)) are correlated by
    their dot product, replicas share one mean.

    Args:
        x: (T,), (T, R) of replicas, or (T, R, d).

    Source:
        Sokal, Monte Carlo Methods in Statistical Mechanics (1996), eq. 3.16; Madras and Sokal, J. Stat. Phys. 50, 109 (1988).
    """
    a = as_array(x, "x")
    a = a.reshape(len(a), a.shape[1] if a.ndim > 1 else 1, -1)
    a = a - a.mean((0, 1))
    c = _correlation(a[:, :, None, :], len(a)).mean(1)
    if c[0] <= 0:
        return 0.5
    tau = 0.5 + np.concatenate([[0.0], np.cumsum(c[1:] / c[0])])
    stop = np.nonzero(np.arange(len(tau)) >= window * tau)[0]
    return float(max(0.5, tau[stop[0] if len(stop) else -1]))


def _with_replicas(x: Any, name: str) -> Array:
    a = as_array(x, name)
    if a.ndim not in (3, 4):
        raise ValueError(f"{name} has shape {a.shape}, expected (T, N, 3) or (T, R, N, 3)")
    return a if a.ndim == 4 else a[:, None]


def _lags(n_times: int, max_lag: int | None) -> int:
    lags = n_times // 2 if max_lag is None else max_lag
    if not 0 <= lags < n_times:
        raise ValueError(f"max_lag={max_lag}: must be between 0 and {n_times - 1}, the trajectory has {n_times} frames")
    return lags + 1


def _correlation(v: Array, lags: int) -> Array:
    """(L, R): sum over components and mean over particles and origins of v(t) v(t + k), zero-padded FFT."""
    t = len(v)
    size = 1 << (2 * t - 1).bit_length()
    out = np.zeros((lags, v.shape[1]))
    for r in range(v.shape[1]):
        f = np.fft.rfft(v[:, r].reshape(t, -1), size, axis=0)
        out[:, r] = np.fft.irfft((np.abs(f) ** 2).sum(1), size)[:lags] / v.shape[2]
    return out / (t - np.arange(lags))[:, None]


def _msd_fft(x: Array, lags: int) -> Array:
    """(L, R): <x(t)^2 + x(t+k)^2> - 2 <x(t) x(t+k)>, positions counted from their mean to keep the digits."""
    t = len(x)
    x = x - x.mean(0)
    q = (x**2).sum(-1).mean(-1)
    total = np.concatenate([np.zeros((1, q.shape[1])), np.cumsum(q, 0)])
    k = np.arange(lags)
    squares = (total[t - k] + total[t] - total[k]) / (t - k)[:, None]
    return np.maximum(squares - 2 * _correlation(x, lags), 0.0)


def _curves(x: Array, lags: int, n_blocks: int, curve: Any) -> Array:
    """(B, L) one curve for each replica, or for each stretch of time where there are too few replicas."""
    if n_blocks < 2:
        raise ValueError(f"n_blocks={n_blocks}: an error estimate needs at least 2 blocks")
    pieces = -(-n_blocks // x.shape[1])
    parts = np.array_split(x, min(pieces, len(x)), axis=0)
    out = np.full((len(parts), x.shape[1], lags), np.nan)
    for b, part in enumerate(parts):
        n = min(lags, len(part))
        out[b, :, :n] = curve(part, n).T
    return out.reshape(-1, lags)


def _standard_error(blocks: Array) -> Array:
    return blocks.std(0, ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else np.full(blocks.shape[1], np.nan)
