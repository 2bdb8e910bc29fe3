"""Relaxation: how fast vectors in molecules turn, end-to-end vectors and sizes of chains forget themselves, and the times of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import gamma, gammaincc
from torch import Tensor

from mlmd.observables.blocks import Array, as_array
from mlmd.observables.dynamics import _correlation, _curves, _lags, _positive, _standard_error, _with_replicas


@dataclass(frozen=True, eq=False)
class Relaxation:
    """A correlation function with C(0) = 1: lag (L,) in frames, c (L,), standard error (nan where blocks are shorter), blocks (B, L)."""

    lag: Array
    c: Array
    error: Array
    blocks: Array


@dataclass(frozen=True)
class RelaxationTime:
    r"""Integral :math:`\tau=\int_0^\infty C\,dt` in fs and its standard error; ``tail`` is the part of it beyond the data, from the
    fit :math:`A\,e^{-(t/\tau_w)^\beta}` with amplitude, scale (fs) and beta, over times up to ``last`` (fs)."""

    value: float
    error: float
    tail: float
    amplitude: float
    scale: float
    beta: float
    last: float

    @property
    def resolved(self) -> bool:
        """Whether most of the integral was seen, and not extrapolated."""
        return self.tail < 0.5 * self.value

    def curve(self, time: Array) -> Array:
        """The fit at times in fs."""
        return _kww(np.asarray(time, dtype=float), self.amplitude, self.scale, self.beta)


def orientational(vectors: Tensor | Array, order: int, *, max_lag: int | None = None, n_blocks: int = 10) -> Relaxation:
    r""":math:`C_l(k)=\langle P_l(\hat u(t)\cdot\hat u(t+k))\rangle` over all origins and vectors, l = 1 or 2.

    C1 is seen by dielectric and infrared spectra, C2 by NMR, Raman and fluorescence. For rotational diffusion both are exponential,
    tau_l = 1/(l (l + 1) D_r).

    Args:
        vectors: (T, N, 3) of one trajectory or (T, R, N, 3) of replicas, of any length but zero: bonds, end-to-end vectors.
        order: l. max_lag: largest lag in frames, default half the trajectory.

    Raises:
        ValueError: another order, vectors of length zero, a shape that is neither, a lag beyond the trajectory.

    Source:
        P2(cos) = (3 (u.u')^2 - 1)/2 with (u.u')^2 the product of the tensors u u: Fourier transforms serve both orders.
    """
    u = _with_replicas(vectors, "vectors")
    length = np.linalg.norm(u, axis=-1, keepdims=True)
    if not (length > 0).all():
        raise ValueError("vectors hold some of length zero: they have no direction, leave them out")
    u = u / length
    if order == 1:
        return _relaxation(u, max_lag, n_blocks, _correlation)
    if order != 2:
        raise ValueError(f"order={order}: must be 1 or 2")
    pairs = [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0), (0, 1, 2.0), (0, 2, 2.0), (1, 2, 2.0)]
    uu = np.stack([np.sqrt(w) * u[..., a] * u[..., b] for a, b, w in pairs], -1)
    return _relaxation(uu, max_lag, n_blocks, lambda x, n: 1.5 * _correlation(x, n) - 0.5)


def vector_correlation(vectors: Tensor | Array, *, max_lag: int | None = None, n_blocks: int = 10) -> Relaxation:
    """<R(t).R(t+k)>/<R^2> of vectors (T, N, 3) or (T, R, N, 3) that vanish on average, such as end-to-end vectors, lengths included.

    Raises:
        ValueError: a shape that is neither, all vectors zero, a lag beyond the trajectory.
    """
    return _relaxation(_with_replicas(vectors, "vectors"), max_lag, n_blocks, _correlation)


def fluctuation(x: Tensor | Array, *, max_lag: int | None = None, n_blocks: int = 10) -> Relaxation:
    """<dx(t) dx(t+k)>/<dx^2>, dx = x - <x>, of a number (T, N) per molecule, such as Rg^2; one mean for all molecules and times.

    Raises:
        ValueError: another shape, a constant, a lag beyond the trajectory.
    """
    a = as_array(x, "x")
    if a.ndim != 2:
        raise ValueError(f"x has shape {a.shape}, expected (T, N): one number for every molecule and time")
    d = a - a.mean()
    d = d if np.abs(d).max() > 1e-12 * np.abs(a).max() else np.zeros_like(a)  # what rounding leaves of a constant
    return _relaxation(d[:, None, :, None], max_lag, n_blocks, _correlation)


def relaxation_time(curve: Relaxation, dt: float = 1.0, *, until: float = 0.1, beta: float | None = None) -> RelaxationTime:
    r"""Integral of a correlation function with its error: trapezoidal rule to where it ends or falls to ``until``, then a fitted tail.

    .. math:: \tau=\int_0^{t_c}C\,dt+A\frac{\tau_w}{\beta}\Gamma\!\left(\tfrac1\beta,(t_c/\tau_w)^\beta\right)

    The stretched exponential (Kohlrausch, Williams and Watts) is fitted to all lags after the first up to t_c; its integral beyond
    t_c is known. The error is that of leaving out one block at a time.

    Args:
        dt: fs between frames. until: value of C at which noise takes over. beta: exponent of the tail; 1 is an exponential one,
            None has it fitted, between 0.2 and 2.

    Raises:
        ValueError: a curve that decays within four frames, or not at all, or blocks too short for an error.

    Source:
        Williams and Watts, Trans. Faraday Soc. 66, 80 (1970).
    """
    _positive(dt=dt)
    if not 0 < until < 1:
        raise ValueError(f"until={until}: must lie between 0 and 1")
    held = np.isfinite(curve.blocks).sum(0) > 1 if len(curve.blocks) > 1 else np.zeros(len(curve.c), dtype=bool)
    below = np.nonzero((curve.c < until) | ~held)[0]
    stop = int(below[0]) if len(below) else len(curve.c)
    ends_by_value = stop < len(curve.c) and held[stop]
    stop = stop + 1 if ends_by_value else stop
    if stop < 5:
        raise ValueError(
            f"the correlation is followed over {stop} frames only: save frames more often, or use longer trajectories or fewer blocks"
        )
    t, c = curve.lag[:stop] * dt, curve.c[:stop]
    if not c[-1] < 0.95:
        raise ValueError(f"the correlation is still {c[-1]:.2f} after {t[-1]:g} fs: a longer trajectory is needed")
    whole = _integral(t, c, beta)
    return RelaxationTime(sum(whole[:2]), _jackknife(curve.blocks[:, :stop], t, beta), whole[1], *whole[2:], float(t[-1]))


def _relaxation(x: Array, max_lag: int | None, n_blocks: int, curve: Any) -> Relaxation:
    lags = _lags(len(x), max_lag)
    mean = curve(x, lags).mean(1)
    if not mean[0] > 0:
        raise ValueError("what is to be correlated is zero or constant: it has no relaxation")
    blocks = _curves(x, lags, n_blocks, curve)
    blocks = blocks / np.where(blocks[:, :1] > 0, blocks[:, :1], np.nan)
    return Relaxation(np.arange(lags, dtype=np.float64), mean / mean[0], _standard_error(blocks), blocks)


def _kww(t: Array, amplitude: float, scale: float, beta: float) -> Array:
    return amplitude * np.exp(-((t / scale) ** beta))


def _integral(t: Array, c: Array, beta: float | None) -> tuple[float, float, float, float, float]:
    """Integral seen, integral of the tail, and the amplitude, scale and exponent of the fit."""
    seen = float(np.trapezoid(c, t))
    start = [min(float(c[1]), 1.0), max(seen, float(t[1])), 1.0 if beta is None else beta]
    lower, upper = [0.05, 1e-3 * t[1], 0.2], [1.2, 1e4 * t[-1], 2.0]
    free = 3 if beta is None else 2
    law = (lambda x, a, s, b: _kww(x, a, s, b)) if beta is None else (lambda x, a, s: _kww(x, a, s, beta))
    start = np.clip(start[:free], lower[:free], upper[:free]).tolist()
    try:
        fitted = curve_fit(law, t[1:], c[1:], start, bounds=(lower[:free], upper[:free]))[0]
    except (RuntimeError, OptimizeWarning) as error:
        raise ValueError(f"no exponential tail fits the correlation ({error}): use a longer trajectory") from error
    a, s, b = (*map(float, fitted), beta)[:3] if beta is not None else map(float, fitted)
    return seen, float(a * s / b * gamma(1 / b) * gammaincc(1 / b, (t[-1] / s) ** b)), a, s, b


def _jackknife(blocks: Array, t: Array, beta: float | None) -> float:
    """Standard error from the integrals of the curve without one block each."""
    blocks = blocks[np.isfinite(blocks).all(1)]
    n = len(blocks)
    if n < 2:
        return float("nan")
    total = blocks.sum(0)
    values = np.array([sum(_integral(t, (total - b) / (n - 1), beta)[:2]) for b in blocks])
    return float(np.sqrt((n - 1) / n * ((values - values.mean()) ** 2).sum()))
