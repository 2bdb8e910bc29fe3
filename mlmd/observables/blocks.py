"""Errors from blocks: samples that belong together in time, or to one replica, are one independent measurement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def as_array(x: Any, name: str = "samples") -> Array:
    """``x`` as float64 on the CPU, checked to be finite and not empty."""
    a = x.detach().cpu().double().numpy() if isinstance(x, Tensor) else np.asarray(x, dtype=np.float64)
    if a.size == 0:
        raise ValueError(f"{name} is empty: give at least one sample")
    if not np.isfinite(a).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(a)).sum())} values that are not finite: remove those frames")
    return a


def block_labels(shape: tuple[int, ...], n_blocks: int = 10) -> NDArray[np.int64]:
    """Number of the block that each sample belongs to, in the shape of the samples.

    (T,): contiguous stretches of time. (T, R): every replica is a block; fewer replicas than ``n_blocks`` are each cut
    into equal stretches of time, so that there are never fewer blocks than asked for (unless there are fewer samples).
    """
    if n_blocks < 2:
        raise ValueError(f"n_blocks={n_blocks}: an error estimate needs at least 2 blocks")
    if len(shape) not in (1, 2):
        raise ValueError(f"samples have shape {shape}, expected (T,) for one trajectory or (T, R) for replicas")
    n_times = shape[0]
    replicas = shape[1] if len(shape) == 2 else 1
    pieces = min(n_times, -(-n_blocks // replicas))
    stretch = np.arange(n_times, dtype=np.int64) * pieces // n_times
    if len(shape) == 1:
        return stretch
    return np.arange(replicas, dtype=np.int64)[None, :] * pieces + stretch[:, None]


def ratio(numerators: Array, denominators: Array) -> tuple[Array, Array]:
    """Ratio of sums over blocks and its standard error: r = sum_b n_b / sum_b d_b.

    se^2 = B/(B-1) sum_b (n_b - r d_b)^2 / (sum_b d_b)^2, the linearised error; for equal blocks that of the mean of block means.

    Args:
        numerators: (B, ...); denominators: (B,) or broadcastable to the numerators, positive in sum.

    Source:
        Cochran, Sampling Techniques (1977), eq. 6.13.
    """
    d = denominators.reshape(denominators.shape + (1,) * (numerators.ndim - denominators.ndim))
    total = d.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = numerators.sum(0) / total
        b = len(numerators)
        spread = ((numerators - r * d) ** 2).sum(0)
        error = np.sqrt(spread * b / (b - 1)) / np.abs(total) if b > 1 else np.full_like(r, np.nan)
    return r, error


def block_mean(x: Any, n_blocks: int = 10, weights: Any = None) -> tuple[float, float]:
    """Mean and standard error of samples (T,) of one trajectory or (T, R) of replicas, from block means.

    Raises:
        ValueError: empty, not finite, or a shape that is neither.
    """
    a = as_array(x, "x")
    w = np.ones_like(a) if weights is None else as_array(weights, "weights")
    if w.shape != a.shape:
        raise ValueError(f"weights has shape {w.shape}, x has {a.shape}: one weight for each sample")
    labels = block_labels(a.shape, n_blocks).ravel()
    top = np.bincount(labels, (w * a).ravel())
    mean, error = ratio(top, np.bincount(labels, w.ravel()))
    return float(mean), float(error)
