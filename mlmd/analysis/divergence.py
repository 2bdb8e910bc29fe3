"""Jensen-Shannon divergence of two distributions, and how large it is by chance alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlmd.analysis.fes import Limits, binned_pair, spread
from mlmd.observables.blocks import Array, as_array
from mlmd.observables.histogram import block_histogram


def jensen_shannon(p: Any, q: Any) -> float:
    """JS(p, q) = KL(p | m) / 2 + KL(q | m) / 2 with m = (p + q) / 2, natural logarithm: 0 for equal, ln 2 for disjoint.

    Args:
        p, q: non-negative counts, probabilities or densities on the same bins; each is normalised here.

    Source:
        Lin, IEEE Trans. Inf. Theory 37, 145 (1991).
    """
    a, b = _distribution(p, "p"), _distribution(q, "q")
    if a.shape != b.shape:
        raise ValueError(f"p has shape {a.shape} and q {b.shape}: they must lie on the same bins")
    m = (a + b) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(a > 0, a * np.log(a / m), 0.0) + np.where(b > 0, b * np.log(b / m), 0.0)
    return float(np.clip(terms.sum() / 2, 0.0, np.log(2.0)))


def jensen_shannon_samples(
    a: tuple[Any, Any],
    b: tuple[Any, Any],
    *,
    bins: int = 60,
    periodic: tuple[bool, bool] = (True, True),
    ranges: Limits | None = None,
) -> float:
    """JS of two sets of samples of two variables on ``bins`` x ``bins``; ranges default to those that hold both sets."""
    ranges = common_ranges(a, b, periodic) if ranges is None else ranges
    return jensen_shannon(*(histogram2d(*s, bins=bins, periodic=periodic, ranges=ranges) for s in (a, b)))


def histogram2d(
    cv1: Any, cv2: Any, *, bins: int = 60, periodic: tuple[bool, bool] = (True, True), ranges: Limits | None = None
) -> Array:
    """Counts (bins, bins) of samples of two variables, of any equal shapes."""
    x, y, edges = binned_pair(as_array(cv1, "cv1").ravel(), as_array(cv2, "cv2").ravel(), bins, periodic, ranges)
    return block_histogram([x, y], list(edges), np.ones_like(x), np.zeros(x.shape, dtype=np.int64))[2]


def common_ranges(a: tuple[Any, Any], b: tuple[Any, Any], periodic: tuple[bool, bool]) -> Limits:
    """Limits of each variable that hold both sets (None where periodic)."""
    first, second = (None if turns else spread(as_array(x), as_array(y)) for x, y, turns in zip(a, b, periodic))
    return first, second


@dataclass(frozen=True)
class JSFloor:
    """Expected JS of two sets drawn from one distribution, by two estimates with their standard deviations.

    ``multinomial``: independent draws from the reference histogram with the effective numbers of samples.
    ``block``: halves of the reference itself, made of whole blocks of time, extrapolated to the numbers of samples used; it contains
    what the reference has not converged. nan where there is no time order to split.
    """

    multinomial: float
    multinomial_std: float
    block: float
    block_std: float
    n_samples: float
    n_reference: float | None


def js_floor(
    reference: Any,
    n_samples: float,
    *,
    n_reference: float | None = None,
    correlation: tuple[float, float] = (1.0, 1.0),
    seed: int = 0,
    draws: int = 20,
    bins: int = 60,
    periodic: tuple[bool, bool] = (True, True),
    ranges: Limits | None = None,
    n_blocks: int = 20,
) -> JSFloor:
    """How large the JS between a reference and ``n_samples`` samples is when both follow the same distribution.

    Args:
        reference: counts (bins, bins), or a pair of variables (T,) in order of time, from which the block floor is also estimated.
        n_samples: size of the other set. n_reference: size of the reference, if it is a sample too; None takes it as exact
            (for samples the default is their number).
        correlation: statistical inefficiency of samples and reference; sizes are divided by it.
        draws: repetitions; seed: of the draws.

    Raises:
        ValueError: sizes below one, or statistical inefficiencies below 1.
    """
    if isinstance(reference, tuple):
        x, y = (as_array(v, "reference") for v in reference)
        counts = histogram2d(x, y, bins=bins, periodic=periodic, ranges=ranges)
        n_reference = x.size if n_reference is None else n_reference
    else:
        counts = as_array(reference, "reference")
    sizes = [n if n is None else n / g for n, g in zip((n_samples, n_reference), correlation)]
    if min(correlation) < 1 or any(n is not None and n < 1 for n in sizes):
        raise ValueError(
            f"n_samples={n_samples}, n_reference={n_reference}, correlation={correlation}: need sizes and factors >= 1"
        )
    rng = np.random.default_rng(seed)
    drawn = [_multinomial_js(counts, sizes, rng) for _ in range(draws)]
    block = (float("nan"), float("nan"))
    if isinstance(reference, tuple):
        block = _block_floor(x, y, sizes, correlation[1], rng, draws, dict(bins=bins, periodic=periodic, ranges=ranges), n_blocks)
    return JSFloor(float(np.mean(drawn)), float(np.std(drawn)), *block, float(sizes[0] or 0), sizes[1])


def _multinomial_js(counts: Array, sizes: list[float | None], rng: np.random.Generator) -> float:
    p = (counts / counts.sum()).ravel()
    a, b = (p if n is None else rng.multinomial(round(n), p) for n in sizes)
    return jensen_shannon(a, b)


def _block_floor(
    x: Array,
    y: Array,
    sizes: list[float | None],
    g: float,
    rng: np.random.Generator,
    draws: int,
    grid: dict[str, Any],
    n_blocks: int,
) -> tuple[float, float]:
    """JS between two sets of whole blocks, for halves and for quarters of the reference; a power law in 1/n_a + 1/n_b links the sizes.

    JS = c (1/n_a + 1/n_b)^alpha: alpha = 1 when every occupied bin holds many samples (then c = (occupied bins - 1) / 8), less below.
    """
    ranges = grid["ranges"] or tuple(None if t else spread(v) for v, t in zip((x, y), grid["periodic"]))
    labels = np.arange(len(x)) * n_blocks // len(x)
    parts = [histogram2d(x[labels == b], y[labels == b], **{**grid, "ranges": ranges}) for b in range(n_blocks)]
    stack = np.stack(parts).reshape(n_blocks, -1)
    halves = np.array([_split_js(stack, n_blocks // 2, rng, first=k == 0) for k in range(draws)])
    quarters = np.array([_split_js(stack, n_blocks // 4, rng, first=k == 0) for k in range(draws)])
    alpha = float(np.clip(np.log2(quarters.mean() / halves.mean()), 0.3, 1.0)) if halves.mean() > 0 else 1.0
    n_half = x.size / 2 / g
    inverse = sum(0.0 if n is None else 1.0 / n for n in sizes)
    scale = (inverse / (2.0 / n_half)) ** alpha
    return float(halves.mean() * scale), float(halves.std() * scale)


def _split_js(stack: Array, size: int, rng: np.random.Generator, *, first: bool) -> float:
    """JS between two disjoint sets of ``size`` blocks: alternating ones first, then random ones."""
    order = np.concatenate([np.arange(0, len(stack), 2), np.arange(1, len(stack), 2)]) if first else rng.permutation(len(stack))
    a, b = (order[:size], order[len(stack) // 2 :][:size]) if first else (order[:size], order[size : 2 * size])
    return jensen_shannon(stack[a].sum(0), stack[b].sum(0))


def _distribution(p: Any, name: str) -> Array:
    a = as_array(p, name)
    if (a < 0).any() or not a.sum() > 0:
        raise ValueError(f"{name} must be non-negative with a positive sum")
    return a / a.sum()
