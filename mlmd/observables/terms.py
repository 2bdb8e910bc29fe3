"""Bonds, angles and dihedrals of a bond graph, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Terms:
    """Index tuples of internal coordinates: bonds (K, 2), angles (K, 3), dihedrals (K, 4), long, sorted."""

    bonds: Tensor
    angles: Tensor
    dihedrals: Tensor

    def to(self, device: Any) -> Terms:
        """The same terms on another device."""
        return Terms(self.bonds.to(device), self.angles.to(device), self.dihedrals.to(device))


def internal_terms(n: int, bonds: Iterable[tuple[int, int]] | Tensor) -> Terms:
    """All bonds, angles i-j-k (i < k) and proper dihedrals i-j-k-l (j < k, i != l) of ``n`` particles joined by ``bonds``.

    Rings are safe: a path that closes on itself (three-membered ring) is no dihedral, and no term appears twice.

    Raises:
        ValueError: a bond of a particle with itself or with one that does not exist.
    """
    pairs = bonds.tolist() if isinstance(bonds, Tensor) else [tuple(map(int, b)) for b in bonds]
    for i, j in pairs:
        if i == j or not (0 <= i < n and 0 <= j < n):
            raise ValueError(f"bonds holds ({i}, {j}): need two different particles between 0 and {n - 1}")
    unique = sorted({(min(i, j), max(i, j)) for i, j in pairs})
    near = neighbours(n, unique)
    corners = [(i, j, k) for j in range(n) for i, k in combinations(near[j], 2)]
    turns = [(i, j, k, l) for j, k in unique for i in near[j] if i != k for l in near[k] if l != j and l != i]
    return Terms(_tensor(unique, 2), _tensor(corners, 3), _tensor(turns, 4))


def neighbours(n: int, bonds: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Bonded neighbours of every particle, ascending."""
    near: list[set[int]] = [set() for _ in range(n)]
    for i, j in bonds:
        near[i].add(j)
        near[j].add(i)
    return [sorted(s) for s in near]


def _tensor(rows: list, width: int) -> Tensor:
    return torch.tensor(sorted(rows), dtype=torch.long).reshape(-1, width)
