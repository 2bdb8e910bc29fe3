"""Jensen-Shannon divergence of two distributions, and how large it is by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
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
    """JS to expect between two sets drawn from one distribution, by three estimates, each with its standard deviation.

    | field | the two sets are | what it leaves out |
    |---|---|---|
    | multinomial | independent draws from the reference histogram | correlation; bins that the reference never saw: too low by up to a half for a reference of few samples |
    | shuffled | disjoint random halves of the reference, extrapolated to the sizes | correlation in time |
    | block | halves made of whole blocks of time, extrapolated to the sizes | nothing, if blocks outlast the correlation and the other set is correlated alike |

    nan where it cannot be had (no counts of single samples, no order in time). ``n_samples``, ``n_reference``: sizes supposed.
    """

    multinomial: float
    multinomial_std: float
    shuffled: float
    shuffled_std: float
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
        reference: counts (any shape), or a pair of variables (T,) or (T, R) in order of time, from which the block floor comes.
        n_samples: size of the other set. n_reference: size of the reference; for counts None takes them as the exact distribution
            (right for a reference far larger than the other set), for samples the default is their number.
        correlation: factors by which the sizes of samples and reference are divided. The statistical inefficiency of a slow coordinate
            is far too large a factor here: within a basin the bins forget each other much sooner. The block floor needs none.
        draws: repetitions; seed: of the draws.

    Raises:
        ValueError: sizes below one, or factors below 1.
    """
    series = tuple(as_array(v, "reference") for v in reference) if isinstance(reference, tuple) else None
    if series is not None:
        ranges = ranges or common_ranges(series, series, periodic)  # type: ignore[arg-type]
        n_reference = series[0].size if n_reference is None else n_reference
    counts = histogram2d(*series, bins=bins, periodic=periodic, ranges=ranges) if series else as_array(reference, "reference")
    sizes = [n if n is None else n / g for n, g in zip((n_samples, n_reference), correlation)]
    if min(correlation) < 1 or any(n is not None and n < 1 for n in sizes):
        raise ValueError(
            f"n_samples={n_samples}, n_reference={n_reference}, correlation={correlation}: need sizes and factors >= 1"
        )
    rng = np.random.default_rng(seed)
    drawn = [_multinomial_js(counts, sizes, rng) for _ in range(draws)]
    shuffled = block = (float("nan"), float("nan"))
    if n_reference is not None and counts.sum() >= 8 and (counts == np.round(counts)).all():
        splits = [[_shuffled_js(counts, part, rng) for _ in range(draws)] for part in (2, 4)]
        shuffled = _extrapolated(splits, float(counts.sum()), sizes)
    if series is not None and len(series[0]) >= 2 * n_blocks:
        stack = _block_histograms(series, n_blocks, dict(bins=bins, periodic=periodic, ranges=ranges))
        splits = [[_split_js(stack, n_blocks // part, rng, first=k == 0) for k in range(draws)] for part in (2, 4)]
        block = _extrapolated(splits, float(counts.sum()), sizes)
    return JSFloor(float(np.mean(drawn)), float(np.std(drawn)), *shuffled, *block, float(sizes[0] or 0), sizes[1])


def _multinomial_js(counts: Array, sizes: Sequence[float | None], rng: np.random.Generator) -> float:
    p = (counts / counts.sum()).ravel()
    a, b = (p if n is None else rng.multinomial(round(n), p) for n in sizes)
    return jensen_shannon(a, b)


def _shuffled_js(counts: Array, parts: int, rng: np.random.Generator) -> float:
    """JS between two disjoint random sets of samples, each one of ``parts`` equal parts of the reference."""
    whole = counts.ravel().astype(np.int64)
    size = int(whole.sum()) // parts
    a = rng.multivariate_hypergeometric(whole, size, method="marginals")
    return jensen_shannon(a, rng.multivariate_hypergeometric(whole - a, size, method="marginals"))


def _block_histograms(series: tuple[Array, ...], n_blocks: int, grid: dict[str, Any]) -> Array:
    labels = np.arange(len(series[0])) * n_blocks // len(series[0])
    return np.stack([histogram2d(*(v[labels == b] for v in series), **grid).ravel() for b in range(n_blocks)])


def _split_js(stack: Array, size: int, rng: np.random.Generator, *, first: bool) -> float:
    """JS between two disjoint sets of ``size`` blocks: alternating ones first, then random ones."""
    order = rng.permutation(len(stack))
    a, b = order[:size], order[size : 2 * size]
    if first:
        a, b = np.arange(0, len(stack), 2)[:size], np.arange(1, len(stack), 2)[:size]
    return jensen_shannon(stack[a].sum(0), stack[b].sum(0))


def _extrapolated(splits: list[list[float]], n: float, sizes: Sequence[float | None]) -> tuple[float, float]:
    """From halves and quarters of ``n`` samples to the sizes wanted, by JS = c (1/n_a + 1/n_b)^alpha.

    alpha = 1 when every occupied bin holds many samples (then c = (occupied bins - 1) / 8), less below.
    """
    halves, quarters = (np.array(s) for s in splits)
    if not halves.mean() > 0:
        return 0.0, 0.0
    alpha = float(np.clip(np.log2(quarters.mean() / halves.mean()), 0.3, 1.0))
    inverse = sum(0.0 if m is None else 1.0 / m for m in sizes)
    scale = (inverse * n / 4) ** alpha
    return float(halves.mean() * scale), float(halves.std() * scale)


def _distribution(p: Any, name: str) -> Array:
    a = as_array(p, name)
    if (a < 0).any() or not a.sum() > 0:
        raise ValueError(f"{name} must be non-negative with a positive sum")
    return a / a.sum()
