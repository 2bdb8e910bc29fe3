"""Radial distribution functions of periodic boxes, and pair-distance densities of isolated molecules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd.cell import check_cutoff
from mlmd.frames import Frames
from mlmd.observables.blocks import Array, block_labels, ratio
from mlmd.observables.geometry import distances
from mlmd.observables.histogram import Density1D, density

_CHUNK = 65536  # pairs worked on at once: the working set stays in the second-level cache
_MANY, _SPARSE = 500, 0.05  # a cell list wins for more particles, if at most this part of the pairs is within r_max
_FINE = 8  # fine bins per bin for Gaussian smoothing
_REACH = 4  # standard deviations after which the smoothing kernel is cut


@dataclass(frozen=True, eq=False)
class RDF:
    """g(r) on bins: centres r (B,) in A, g (B,), its block standard error, pairs counted per bin, and the bin edges (B+1,)."""

    r: Array
    g: Array
    error: Array
    count: Array
    edges: Array
    n_frames: int
    smoothed: bool = False


def rdf(
    frames: Frames | Tensor,
    cell: Tensor | None = None,
    *,
    r_max: float,
    bins: int = 200,
    r_min: float = 0.0,
    pairs: Any = None,
    types: Any = None,
    between: tuple[int, int] | None = None,
    exclude: Any = (),
    smooth: bool = False,
    n_blocks: int = 10,
) -> RDF:
    """Radial distribution function of periodic boxes, normalised by the ideal gas.

    g_b = sum_f count_b(f) / sum_f [n_pairs v_b / V_f],  v_b = 4 pi (r_{b+1}^3 - r_b^3) / 3, nearest images only.

    Args:
        frames: Frames, or positions (F, N, 3) of a trajectory or (T, R, N, 3) of replicas, A (wrapped or not).
        cell: (3, 3) or one for every frame, A; taken from Frames if absent.
        r_max, r_min: range, A; r_max at most half the smallest box width (smoothing needs four bins more).
        pairs: (P, 2) explicit particle pairs; else all pairs, or those ``between=(a, b)`` two ``types`` (N,) (default: of Frames).
        exclude: (K, 2) pairs left out, for instance ``frames.bonds``.
        smooth: Gaussian of one bin width as standard deviation on every distance and on the ideal gas, as in the tables of
            differentiable-simulation codes (sharp and smoothed peaks differ by 4-7 % at 100 bins for a liquid).

    Raises:
        ValueError: no cell, r_max over half the box width, no pairs.
    """
    x, box = _positions_and_cells(frames, cell)
    lead = x.shape[:-2]
    x, box = x.reshape(-1, *x.shape[-2:]), box.reshape(-1, 3, 3)
    edges, fine = _grids(r_min, r_max, bins, smooth)
    check_cutoff(box, torch.ones(len(box), 3, dtype=torch.bool), float(fine[-1]))
    if types is None and isinstance(frames, Frames):
        types = frames.types
    n = x.shape[1]
    types = None if types is None else torch.as_tensor(types).cpu()
    groups, n_pairs = _groups(n, pairs, types, between)
    removed = _excluded(n, exclude, pairs, types, between)
    n_pairs -= len(removed)
    if n_pairs < 1:
        raise ValueError("no pairs are left to count: check pairs, between and exclude")
    labels = block_labels(tuple(lead), n_blocks).ravel()
    raw = np.zeros((int(labels.max()) + 1, len(fine) - 1))
    inside = 4 / 3 * np.pi * fine[-1] ** 3 / float(torch.linalg.det(box).abs().min())  # part of the pairs within reach
    near = pairs is None and n > _MANY and inside < _SPARSE
    for several in _batches(box, n):
        now = (x[several], box[several.start], labels[several])
        raw += (_count_near if near else _count)(*now, groups, fine, len(raw))
        if len(removed):
            raw -= _count(*now, removed, fine, len(raw))
    density_sum = np.bincount(labels, n_pairs / torch.linalg.det(box).abs().numpy())
    shells = 4 / 3 * np.pi * np.diff(fine**3)
    kernel = _kernel(edges, fine) if smooth else None
    numerators = raw if kernel is None else raw @ kernel.T
    ideal = shells if kernel is None else kernel @ shells
    g, error = ratio(numerators / ideal, density_sum)
    return RDF((edges[1:] + edges[:-1]) / 2, g, error, numerators.sum(0), edges, len(x), smooth)


def distance_density(
    x: Tensor, pairs: Any, *, bins: int = 60, limits: tuple[float, float] | None = None, n_blocks: int = 10
) -> Density1D:
    """Density of the distances of ``pairs`` (K, 2) of isolated molecules (T, n, 3) or (T, R, n, 3): integrates to 1, 1/A.

    All pairs are pooled; errors are over blocks of time or replicas, so the pairs of one frame count as one measurement.
    """
    d = distances(x, pairs)
    if d.shape[-1] == 0:
        raise ValueError("pairs is empty: give at least one pair")
    labels = block_labels(tuple(d.shape[:-1]), n_blocks)
    return density(d, bins=bins, limits=limits, labels=np.broadcast_to(labels[..., None], d.shape))


def _positions_and_cells(frames: Frames | Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    x = frames.positions if isinstance(frames, Frames) else torch.as_tensor(frames)
    cell = frames.cell if cell is None and isinstance(frames, Frames) else cell
    if x.ndim not in (3, 4) or x.shape[-1] != 3:
        raise ValueError(f"positions has shape {tuple(x.shape)}, expected (frames, N, 3) or (times, replicas, N, 3)")
    if x.numel() == 0:
        raise ValueError(f"positions has shape {tuple(x.shape)}: give at least one frame")
    if cell is None:
        raise ValueError("cell is missing: g(r) needs a periodic box; use distance_density for isolated molecules")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("positions are not finite: remove those frames")
    cell = torch.as_tensor(cell).double().cpu()
    cell = torch.diag(cell) if cell.ndim == 1 else cell
    return x.detach().cpu(), cell.expand(*x.shape[:-2], 3, 3)


def _grids(r_min: float, r_max: float, bins: int, smooth: bool) -> tuple[Array, Array]:
    if bins < 1 or not 0 <= r_min < r_max:
        raise ValueError(f"r_min={r_min}, r_max={r_max}, bins={bins}: need 0 <= r_min < r_max in A and at least one bin")
    edges = np.linspace(r_min, r_max, bins + 1)
    if not smooth:
        return edges, edges
    width = edges[1] - edges[0]
    below = min(_REACH * width, r_min)
    step = width / _FINE
    below = np.floor(below / step + 1e-9) * step
    count = round((r_max + _REACH * width - r_min + below) / step)
    return edges, r_min - below + step * np.arange(count + 1)


def _kernel(edges: Array, fine: Array) -> Array:
    """(B, fine bins): Gaussian weight of a fine bin at each centre, standard deviation one bin."""
    centre, mid, width = (edges[1:] + edges[:-1]) / 2, (fine[1:] + fine[:-1]) / 2, edges[1] - edges[0]
    return np.exp(-0.5 * ((centre[:, None] - mid[None, :]) / width) ** 2) / np.sqrt(2 * np.pi)


def _groups(n: int, pairs: Any, types: Any, between: tuple[int, int] | None) -> tuple[Any, int]:
    """What to count: explicit pairs (P, 2), or two index sets whose products are meant; and how many pairs that is."""
    if pairs is not None:
        listed = torch.as_tensor(pairs, dtype=torch.long).reshape(-1, 2)
        if len(listed) and (int(listed.min()) < 0 or int(listed.max()) >= n):
            raise ValueError(f"pairs refers to particles beyond 0 to {n - 1}")
        return listed, len(listed)
    if between is None:
        everyone = torch.arange(n)
        return (everyone, everyone), n * (n - 1) // 2
    if types is None:
        raise ValueError("between needs types: give one integer type for each particle")
    species = torch.as_tensor(types)
    a, b = (torch.nonzero(species == t).flatten() for t in between)
    for t, members in zip(between, (a, b)):
        if len(members) == 0:
            raise ValueError(f"between={between}: no particle has type {t}; types present: {species.unique().tolist()}")
    same = between[0] == between[1]
    return (a, b), len(a) * (len(a) - 1) // 2 if same else len(a) * len(b)


def _excluded(n: int, exclude: Any, pairs: Any, types: Any, between: tuple[int, int] | None) -> Tensor:
    """Excluded pairs that would otherwise be counted, each once."""
    left_out = torch.as_tensor(exclude if isinstance(exclude, Tensor) else list(exclude), dtype=torch.long).reshape(-1, 2)
    left_out = left_out.sort(1).values.unique(dim=0) if len(left_out) else left_out
    if len(left_out) == 0:
        return left_out
    if int(left_out.min()) < 0 or int(left_out.max()) >= n:
        raise ValueError(f"exclude refers to particles beyond 0 to {n - 1}")
    if pairs is not None:
        listed = torch.as_tensor(pairs, dtype=torch.long).reshape(-1, 2).sort(1).values
        return left_out[torch.isin(left_out[:, 0] * n + left_out[:, 1], listed[:, 0] * n + listed[:, 1])]
    if between is None:
        return left_out
    t = torch.as_tensor(types)[left_out].sort(1).values
    return left_out[(t == torch.tensor(sorted(between))).all(1)]


def _batches(box: Tensor, n: int) -> Iterator[slice]:
    """Frames that can be counted at once: with one cell, few enough to stay in the cache."""
    several = max(1, _CHUNK // (n * n // 2 + 1)) if bool((box == box[:1]).all()) else 1
    for first in range(0, len(box), several):
        yield slice(first, first + several)


def _count(x: Tensor, cell: Tensor, labels: np.ndarray, groups: Any, grid: Array, n_blocks: int) -> Array:
    """(blocks, bins) number of pairs in frames (B, N, 3) that share a cell; ``labels`` (B,) says to which block each belongs."""
    bins = len(grid) - 1
    s = x.double() @ torch.linalg.inv(cell)
    s = (s - s.floor()).float().permute(2, 0, 1).contiguous()
    per_length = bins / (grid[-1] - grid[0])
    metric = (cell @ cell.T * per_length**2).tolist()  # distances come out in units of the bin width
    shift = 1.0 - grid[0] * per_length  # bin 0 collects what is nearer than the grid
    first = int(labels.min())
    row = torch.from_numpy(labels - first)[:, None, None] * (bins + 2)
    total = torch.zeros(int(labels.max()) - first + 1, bins + 2, dtype=torch.long)
    for d in _displacements(s, groups):
        index = _squared(d, metric).sqrt_().add_(shift).clamp_(0, bins + 1).long()
        if len(total) > 1:
            index += row if index.ndim == 3 else row[..., 0]
        total += torch.bincount(index.reshape(-1), minlength=total.numel()).reshape(total.shape)
    out = np.zeros((n_blocks, bins))
    out[first : first + len(total)] = total[:, 1:-1].numpy()
    return out


def _count_near(x: Tensor, cell: Tensor, labels: np.ndarray, groups: Any, grid: Array, n_blocks: int) -> Array:
    """As :func:`_count`, from a cell list: for ranges far below the box width."""
    from vesin import NeighborList

    search = NeighborList(cutoff=float(grid[-1]), full_list=False)
    first, second = (np.isin(np.arange(x.shape[1]), members) for members in groups)
    box, out = np.ascontiguousarray(cell.numpy()), np.zeros((n_blocks, len(grid) - 1))
    for frame, label in zip(np.ascontiguousarray(x.double().numpy()), labels):
        i, j, d = search.compute(points=frame, box=box, periodic=True, quantities="ijd")
        if not (first.all() and second.all()):
            d = d[(first[i] & second[j]) | (second[i] & first[j])]
        index = ((d - grid[0]) * ((len(grid) - 1) / (grid[-1] - grid[0])) + 1).astype(np.int64)
        out[label] += np.bincount(np.clip(index, 0, len(grid)), minlength=len(grid) + 1)[1:-1]
    return out


def _squared(d: list[Tensor], metric: list[list[float]]) -> Tensor:
    """Squared length of fractional displacements at their nearest image: s^T G s with G = cell cell^T. Overwrites ``d``."""
    for component in d:
        component.sub_(component.round())
    mixed = [(a, b) for a in range(3) for b in range(a) if metric[a][b] != 0.0]
    cross = sum(2 * metric[a][b] * d[a] * d[b] for a, b in mixed) if mixed else None
    r2 = d[0].square_().mul_(metric[0][0])
    r2.addcmul_(d[1], d[1], value=metric[1][1]).addcmul_(d[2], d[2], value=metric[2][2])
    return r2 if cross is None else r2.add_(cross).clamp_(min=0)


def _displacements(s: Tensor, groups: Any) -> Iterator[list[Tensor]]:
    """Fractional displacements of (3, B, N) positions, component by component, in pieces that fit the cache."""
    if isinstance(groups, Tensor):
        for part in groups.split(max(1, _CHUNK // s.shape[1])):
            yield [c[:, part[:, 1]] - c[:, part[:, 0]] for c in s]
    elif torch.equal(*groups):
        yield from _all_pairs(s if len(groups[0]) == s.shape[2] else s[:, :, groups[0]].contiguous())
    else:
        a, b = s[:, :, groups[0]], s[:, :, groups[1]]
        for part in a.split(max(1, _CHUNK // (b.shape[1] * b.shape[2])), dim=2):
            yield [q[:, None, :] - p[:, :, None] for p, q in zip(part, b)]


def _all_pairs(s: Tensor) -> Iterator[list[Tensor]]:
    """Every pair once, without gathering: particle i with i + k (cyclic) for k = 1 ... n/2."""
    frames, n = s.shape[1:]
    twice = torch.cat([s, s], 2)
    rows = max(1, _CHUNK // (n * frames))
    half = (n - 1) // 2
    for k in range(1, half + 1, rows):
        m = min(rows, half + 1 - k)
        out = torch.empty(3, frames, m, n, dtype=s.dtype, device=s.device)
        for c in range(3):
            shifted = twice[c].as_strided((frames, m, n), (2 * n, 1, 1), twice[c].storage_offset() + k)
            torch.sub(shifted, s[c][:, None, :], out=out[c])
        yield list(out)
    if n % 2 == 0:
        yield [t[:, n // 2 : n] - c[:, : n // 2] for t, c in zip(twice, s)]
