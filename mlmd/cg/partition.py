"""Search among partitions: single moves and swaps that lower a loss of hard assignments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]  # labels (K, U) -> (K,)

MAX_UNITS_FOR_SWAPS = 64
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


def improve(labels: Tensor, n_beads: int, loss: Loss, max_sweeps: int = 200) -> Tensor:
    """Steepest descent over all moves of one unit and (up to 64 units) all swaps of two, until none lowers the loss."""
    best = float(loss(labels))
    for _ in range(max_sweeps):
        candidates = moves(labels, n_beads)
        if len(labels) <= MAX_UNITS_FOR_SWAPS:
            candidates = torch.cat([candidates, swaps(labels)])
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


def _evaluate(candidates: Tensor, loss: Loss) -> Tensor:
    return torch.cat([loss(c) for c in candidates.split(CHUNK)])
