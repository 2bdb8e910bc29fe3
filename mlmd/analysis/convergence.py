"""Has the sampling converged, and has it forgotten where it started?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlmd.analysis.divergence import jensen_shannon
from mlmd.analysis.fes import Limits, binned_pair
from mlmd.analysis.populations import Region
from mlmd.observables.blocks import Array, as_array, block_mean
from mlmd.observables.histogram import block_histogram

_SIGMAS = 2.6  # a normal variable strays further in 1 % of cases


@dataclass(frozen=True)
class Verdict:
    """An answer, one plain sentence, and the numbers behind it (plain, for JSON)."""

    converged: bool
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)


def halves(
    cv1: Any,
    cv2: Any,
    *,
    regions: Sequence[Region] = (),
    bins: int = 60,
    periodic: tuple[bool, bool] = (True, True),
    ranges: Limits | None = None,
    n_blocks: int = 20,
    seed: int = 0,
    draws: int = 40,
) -> Verdict:
    """First half of the time against the second half.

    The JS of the halves is held against the JS after relabelling at random what belongs to which half: of every replica the two
    halves are exchanged or not; a single trajectory has its stretches of time dealt out anew. Converged if it exceeds their
    mean by at most 2.6 standard deviations, and no population moved by more than 2.6 standard errors.

    Args:
        cv1, cv2: (T,) of one trajectory or (T, R) of replicas.
    """
    a, b = as_array(cv1, "cv1"), as_array(cv2, "cv2")
    if a.shape != b.shape or len(a) < 4:
        raise ValueError(f"cv1 {a.shape} and cv2 {b.shape} must have one shape and at least 4 times")
    even = len(a) // 2 * 2
    a, b = a[:even], b[:even]
    parts = _half_histograms(a, b, bins, periodic, ranges, n_blocks)
    js = jensen_shannon(parts[0].sum(0), parts[1].sum(0))
    rng = np.random.default_rng(seed)
    shuffled = np.array([_relabelled_js(parts, rng, paired=a.ndim == 2) for _ in range(draws)])
    limit = float(shuffled.mean() + _SIGMAS * shuffled.std())
    moves = {r.name: _move(r.contains(a, b), n_blocks) for r in regions}
    moved = [name for name, m in moves.items() if abs(m["change_points"]) > _SIGMAS * m["error_points"] + 1e-9]
    numbers: dict[str, Any] = {"js_halves": js, "js_shuffled": float(shuffled.mean()), "js_shuffled_std": float(shuffled.std())}
    numbers |= {"populations": moves, "n_samples": int(a.size)}
    return Verdict(js <= limit and not moved, _halves_sentence(js, limit, moved, moves), numbers)


def start_forgotten(cvs: Sequence[Any], start: Region, *, tolerance: float = 0.03) -> Verdict:
    """Whether replicas that began in ``start`` no longer remember it.

    p(t) is the fraction of replicas in the start region. Forgotten if (1) p does not move between the third and the last quarter of
    the time: change <= max(2.6 standard errors over replicas, ``tolerance``), the error itself being at most ``tolerance``, and
    (2) nine in ten replicas have left at least once, or at least ten crossings each way happened in the last half.

    Args:
        cvs: variables (T, R), time in the first axis from the start on, replicas in the second; start: a :class:`Region` of them.

    Raises:
        ValueError: fewer than 2 replicas or 8 times.
    """
    inside = start.contains(*cvs)
    if inside.ndim != 2 or inside.shape[1] < 2 or len(inside) < 8:
        raise ValueError(f"samples have shape {inside.shape}: need (times >= 8, replicas >= 2); use halves() for one trajectory")
    p = inside.astype(float)
    q = len(p) // 4
    third, last = p[-2 * q : -q].mean(0), p[-q:].mean(0)
    change = float((last - third).mean())
    error = float((last - third).std(ddof=1) / np.sqrt(p.shape[1]))
    population, population_error = block_mean(p[-2 * q :])
    late = np.diff(inside[-2 * q :].astype(int), axis=0)
    exits, entries = int((late < 0).sum()), int((late > 0).sum())
    left = float((~inside).any(0).mean())
    flat = abs(change) <= max(_SIGMAS * error, tolerance) and error <= tolerance
    moving = left >= 0.9 or min(exits, entries) >= 10
    numbers = {
        "region": start.name,
        "at_start": float(p[0].mean()),
        "population_last_half": population,
        "population_error": population_error,
        "change_last_quarters": change,
        "change_error": error,
        "left_fraction": left,
        "exits_last_half": exits,
        "entries_last_half": entries,
        "replicas": int(p.shape[1]),
        "curve": _curve(p),
    }
    return Verdict(bool(flat and moving), _start_sentence(numbers, flat, moving, tolerance), numbers)


def _half_histograms(a: Array, b: Array, bins: int, periodic: tuple[bool, bool], ranges: Limits | None, n_blocks: int) -> Array:
    """(2, blocks, bins^2 + 1) counts of each half, the last entry for what lies outside: blocks are replicas, or stretches of time of one trajectory."""
    x, y, edges = binned_pair(a, b, bins, periodic, ranges)
    n = len(x)
    half = (np.arange(n) * 2 // n).astype(np.int64)
    if x.ndim == 2:
        blocks = min(x.shape[1], 64)  # more replicas are dealt in groups, to bound the memory
        labels = half[:, None] * blocks + (np.arange(x.shape[1]) % blocks)[None, :]
    else:
        blocks = min(max(1, n_blocks // 2), n // 2)
        labels = np.arange(n) * 2 * blocks // n
    counts, totals, _ = block_histogram([x, y], list(edges), np.ones_like(x), labels)
    flat = counts.reshape(len(totals), -1)
    return np.concatenate([flat, totals[:, None] - flat.sum(1, keepdims=True)], 1).reshape(2, blocks, -1)


def _relabelled_js(parts: Array, rng: np.random.Generator, *, paired: bool) -> float:
    if paired:
        swap = rng.integers(0, 2, parts.shape[1])
        rows = np.arange(parts.shape[1])
        return jensen_shannon(parts[swap, rows].sum(0), parts[1 - swap, rows].sum(0))
    order = rng.permutation(2 * parts.shape[1])
    flat = parts.reshape(len(order), -1)
    return jensen_shannon(flat[order[::2]].sum(0), flat[order[1::2]].sum(0))


def _move(inside: np.ndarray, n_blocks: int) -> dict[str, float]:
    """Population of both halves, and its change in percentage points with the standard error."""
    first, second = np.split(inside.astype(float), 2)
    if inside.ndim == 2 and inside.shape[1] > 1:
        change = second.mean(0) - first.mean(0)  # replica by replica: what stays put within a replica cancels
        error = float(change.std(ddof=1) / np.sqrt(len(change)))
    else:
        pieces = max(2, n_blocks // 2)
        error = float(np.hypot(block_mean(first, pieces)[1], block_mean(second, pieces)[1]))
    return {
        "first": float(first.mean()),
        "second": float(second.mean()),
        "change_points": 100 * float(second.mean() - first.mean()),
        "error_points": 100 * error,
    }


def _curve(p: Array, points: int = 100) -> dict[str, list[float]]:
    """p(t) averaged over at most ``points`` stretches of time, with the standard error over replicas; time as a fraction of the run."""
    stretches = np.array_split(p, min(points, len(p)))
    mean = [float(s.mean()) for s in stretches]
    error = [float(s.mean(0).std(ddof=1) / np.sqrt(s.shape[1])) for s in stretches]
    ends = np.cumsum([len(s) for s in stretches])
    centre = [float((e - len(s) / 2) / len(p)) for e, s in zip(ends, stretches)]
    return {"time": centre, "population": mean, "error": error}


def _halves_sentence(js: float, limit: float, moved: list[str], moves: dict[str, dict[str, float]]) -> str:
    if moved:
        m = moves[moved[0]]
        change = f"{m['change_points']:+.1f} +- {m['error_points']:.1f} percentage points"
        return f"Not converged: the population of {moved[0]} changed by {change} between the halves of the run."
    if js > limit:
        return f"Not converged: the two halves of the run differ by JS {js:.4f}, more than chance explains ({limit:.4f})."
    return f"The two halves of the run agree: JS {js:.4f}, chance explains up to {limit:.4f}."


def _start_sentence(n: dict[str, Any], flat: bool, moving: bool, tolerance: float) -> str:
    where, p = n["region"], f"{100 * n['population_last_half']:.1f} +- {100 * n['population_error']:.1f} %"
    if not moving:
        return f"The start is not forgotten: only {100 * n['left_fraction']:.0f} % of the replicas ever left {where}; run longer."
    change = f"{100 * n['change_last_quarters']:+.1f} +- {100 * n['change_error']:.1f} percentage points"
    if n["change_error"] > tolerance:
        return f"Cannot tell whether the start is forgotten: the change of {where} over the last half is known to {change} only."
    if not flat:
        return f"The start is not forgotten: the population of {where} still changed by {change} over the last half."
    return f"The start is forgotten: the population of {where} is flat at {p} over the last half (change {change})."
