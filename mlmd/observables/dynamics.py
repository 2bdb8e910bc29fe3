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


@dataclass(frozen=True)
class Diffusion:
    """D and its standard error in A^2/fs, intercept c of the line c + 6 D t in A^2, range of the fit in fs, and
    the exponent d ln MSD / d ln t over it: 1 is diffusion, 2 free flight, less than 1 a cage or a chain."""

    value: float
    error: float
    intercept: float
    first: float
    last: float
    exponent: float

    def line(self, time: Array) -> Array:
        """The fit c + 6 D t in A^2 at times in fs."""
        return self.intercept + 6 * self.value * np.asarray(time)


@dataclass(frozen=True, eq=False)
class GreenKubo:
    """Running integral of a velocity autocorrelation: time (L,) in fs, value D(t) (L,) and standard error in A^2/fs."""

    time: Array
    value: Array
    error: Array

    def at(self, time: float) -> tuple[float, float]:
        """D and its error with the integral ended at ``time`` in fs.

        Raises:
            ValueError: a time beyond the curve.
        """
        if not 0 <= time <= self.time[-1]:
            raise ValueError(f"time={time:g} fs: the integral runs from 0 to {self.time[-1]:g} fs")
        k = int(np.searchsorted(self.time, time, side="right")) - 1
        return float(self.value[k]), float(self.error[k])


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


def diffusion_coefficient(curve: MSD, first: int, last: int, dt: float = 1.0) -> Diffusion:
    r"""D from the weighted least-squares line through the MSD over lags first..last, :math:`\mathrm{MSD}=c+6Dt`.

    Weights are 1/error^2 of the points. Points of one curve are correlated, so the error comes from the lines through the
    curves of the blocks, with the same weights. The exponent says whether the range is diffusive.

    Args:
        curve: from :func:`msd`. first, last: range in frames, within the lags that the blocks hold. dt: fs between frames.

    Raises:
        ValueError: a window outside the curve, of fewer than two lags, or longer than all blocks but one.
    """
    if not 0 <= first < last < len(curve.lag):
        raise ValueError(f"window {first} to {last} is not inside lags 0 to {len(curve.lag) - 1}")
    window = slice(first, last + 1)
    blocks = curve.blocks[:, window]
    blocks = blocks[np.isfinite(blocks).all(1)]
    if len(blocks) < 2:
        longest = int(np.sort(np.isfinite(curve.blocks).sum(1))[-2]) - 1 if len(curve.blocks) > 1 else 0
        raise ValueError(
            f"last={last}: only blocks of up to {longest} lags give an error; end the window there, or make fewer blocks in msd"
        )
    t, y = curve.lag[window] * dt, curve.msd[window]
    error = _standard_error(blocks)
    w = 1 / error**2 if (error > 0).all() else np.ones_like(error)
    line = w * (t - (w @ t) / w.sum())
    line = line / (line @ t)
    slopes = blocks @ line / 6
    d = float(y @ line / 6)
    intercept = float((w @ y) / w.sum() - 6 * d * (w @ t) / w.sum())
    return Diffusion(d, float(slopes.std(ddof=1) / np.sqrt(len(slopes))), intercept, float(t[0]), float(t[-1]), _exponent(t, y))


def green_kubo(curve: VACF, dt: float) -> GreenKubo:
    r"""Running integral :math:`D(t)=\frac13\int_0^t\langle v(0)\cdot v(s)\rangle\,ds` by the trapezoidal rule, with block errors.

    Read it where it has levelled off: beyond, it only gathers noise.

    Args:
        curve: from :func:`vacf`, velocities in A/fs. dt: fs between frames, far shorter than the decay.

    Source:
        Green, J. Chem. Phys. 22, 398 (1954); Kubo, J. Phys. Soc. Jpn. 12, 570 (1957).
    """
    _positive(dt=dt)

    def integral(c: Array) -> Array:
        middle = (c[..., 1:] + c[..., :-1]) * (dt / 6)
        return np.concatenate([np.zeros((*c.shape[:-1], 1)), np.cumsum(middle, -1)], -1)

    return GreenKubo(curve.lag * dt, integral(curve.vacf), _standard_error(integral(curve.blocks)))


def finite_size_correction(kT: float, viscosity: float, edge: float) -> float:
    r"""What a periodic cubic box takes from D by hydrodynamics: :math:`D_\infty=D_{box}+\xi kT/(6\pi\eta L)`, xi = 2.837297.

    Holds for particles with conserved momentum (Newton, or a thermostat that keeps it). Langevin friction screens the flow:
    beads under friction have no such correction.

    Args:
        kT: eV. viscosity: shear viscosity in eV fs/A^3 (1 mPa s is 6.2415 of them, 1e-3 J s/m^3). edge: L in A.

    Returns:
        A^2/fs, to be added to the D of the box.

    Source:
        Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004), eq. 12.
    """
    _positive(kT=kT, viscosity=viscosity, edge=edge)
    return 2.837297 * kT / (6 * np.pi * viscosity * edge)


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


def _exponent(t: Array, y: Array) -> float:
    """Slope of ln y over ln t, of points that are positive."""
    good = (t > 0) & (y > 0)
    return float(np.polyfit(np.log(t[good]), np.log(y[good]), 1)[0]) if good.sum() > 1 else float("nan")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")


def _standard_error(blocks: Array) -> Array:
    return blocks.std(0, ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else np.full(blocks.shape[1], np.nan)
