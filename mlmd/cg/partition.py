"""Search among partitions of a graph: moves, swaps and regroupings that lower a loss of hard assignments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mlmd.cg.groups import neighbours

Loss = Callable[[Tensor], Tensor]  # labels (K, U) -> (K,)
Bonds = Sequence[tuple[int, int]]

MAX_UNITS_FOR_PAIRS = 64  # beyond, only single moves: the others grow with the square
CHUNK = 2048


def one_hot(labels: Tensor, n_beads: int) -> Tensor:
    """(..., B, U) indicator of labels (..., U)."""
    return torch.nn.functional.one_hot(labels, n_beads).transpose(-1, -2).double()


def repair(labels: Tensor, n_beads: int, loss: Loss) -> Tensor:
    """Give every empty bead the unit whose move there costs least, never taking the last one of a bead."""
    for bead in range(n_beads):
        if bool((labels == bead).any()):
            continue
        counts = torch.bincount(labels, minlength=n_beads)
        donors = torch.nonzero(counts[labels] > 1).flatten()
        candidates = labels.repeat(len(donors), 1)
        candidates[torch.arange(len(donors)), donors] = bead
        labels = candidates[_evaluate(candidates, loss).argmin()]
    return labels


def improve(labels: Tensor, n_beads: int, loss: Loss, bonds: Bonds = (), max_sweeps: int = 200) -> Tensor:
    """Steepest descent over :func:`moves`, :func:`swaps` and :func:`regroupings`, until none lowers the loss."""
    best = float(loss(labels))
    for _ in range(max_sweeps):
        candidates = moves(labels, n_beads)
        if len(labels) <= MAX_UNITS_FOR_PAIRS:
            candidates = torch.cat([candidates, swaps(labels), regroupings(labels, bonds)])
        if not len(candidates):
            return labels
        values = _evaluate(candidates, loss)
        k = int(values.argmin())
        if not float(values[k]) < best - 1e-10 * abs(best):
            return labels
        labels, best = candidates[k], float(values[k])
    return labels


def moves(labels: Tensor, n_beads: int) -> Tensor:
    """All labels that differ in one unit and leave no bead empty, (K, U)."""
    unit = torch.arange(len(labels)).repeat_interleave(n_beads)
    bead = torch.arange(n_beads).repeat(len(labels))
    counts = torch.bincount(labels, minlength=n_beads)
    keep = (bead != labels[unit]) & (counts[labels[unit]] > 1)
    out = labels.repeat(int(keep.sum()), 1)
    out[torch.arange(len(out)), unit[keep]] = bead[keep]
    return out


def swaps(labels: Tensor) -> Tensor:
    """All labels in which two units of different beads changed places, (K, U)."""
    i, j = torch.triu_indices(len(labels), len(labels), 1)
    keep = labels[i] != labels[j]
    i, j = i[keep], j[keep]
    out, k = labels.repeat(len(i), 1), torch.arange(len(i))
    out[k, i], out[k, j] = labels[j], labels[i]
    return out


def regroupings(labels: Tensor, bonds: Bonds) -> Tensor:
    """All labels made by joining two bonded beads and cutting a bead in two at one of its bonds, (K, U)."""
    start = labels.tolist()
    adjacent = neighbours(len(start), bonds)
    out = []
    for a, b in sorted({(min(start[i], start[j]), max(start[i], start[j])) for i, j in bonds if start[i] != start[j]}):
        joined = [a if k == b else k for k in start]
        for i, j in bonds:
            if joined[i] == joined[j]:
                side = _side(joined, adjacent, i, j)
                if j not in side:  # else a ring still holds the two ends together
                    out.append([b if u in side else k for u, k in enumerate(joined)])
    return torch.tensor(out, dtype=labels.dtype).reshape(-1, len(start))


def _side(labels: list[int], adjacent: list[list[int]], start: int, barred: int) -> set[int]:
    """The part of the bead of ``start`` that hangs together with it when the bond to ``barred`` is cut."""
    seen, queue = {start}, [start]
    for u in queue:
        for v in adjacent[u]:
            if labels[v] == labels[start] and v not in seen and (u, v) != (start, barred):
                seen.add(v)
                queue.append(v)
    return seen


def count_pieces(labels: Tensor, bonds: Bonds) -> Tensor:
    """Number of connected pieces of all beads together, (...) from labels (..., N): the lowest index spreads along bonds."""
    n = labels.shape[-1]
    rows = labels.reshape(-1, n)
    if not bonds:
        return torch.full(labels.shape[:-1], n)
    i, j = torch.tensor(list(bonds)).T
    source, target = torch.cat([i, j]), torch.cat([j, i])
    same = rows[:, source] == rows[:, target]
    lowest = torch.arange(n).repeat(len(rows), 1)
    for _ in range(n):
        offered = torch.where(same, lowest[:, source], n)
        after = lowest.scatter_reduce(1, target.expand(len(rows), -1), offered, "amin")
        if torch.equal(after, lowest):
            break
        lowest = after
    return (lowest == torch.arange(n)).sum(1).reshape(labels.shape[:-1])


def _evaluate(candidates: Tensor, loss: Loss) -> Tensor:
    return torch.cat([loss(c) for c in candidates.split(CHUNK)])
