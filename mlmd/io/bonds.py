"""Covalent radii, and bonds guessed from distances where a file names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlmd.neighbors import neighbors
from mlmd.system import System

if TYPE_CHECKING:
    import mdtraj

# single-bond covalent radii in A: B. Cordero et al., Dalton Trans. 2008, 2832, table 2 (carbon: sp3); no noble gases, which bond to nothing
RADII = {
    1: 0.31, 3: 1.28, 4: 0.96, 5: 0.84, 6: 0.76, 7: 0.71, 8: 0.66, 9: 0.57, 11: 1.66, 12: 1.41, 13: 1.21,
    14: 1.11, 15: 1.07, 16: 1.05, 17: 1.02, 19: 2.03, 20: 1.76, 22: 1.60, 25: 1.39, 26: 1.32, 27: 1.26, 28: 1.24,
    29: 1.32, 30: 1.22, 31: 1.22, 32: 1.20, 33: 1.19, 34: 1.20, 35: 1.20, 47: 1.45, 50: 1.39, 53: 1.39, 78: 1.36, 79: 1.36,
}  # fmt: skip
STRETCH = 1.25  # a pair closer than this times the sum of its radii counts as bonded
_METALS = {3, 11, 19, 12, 20}  # ions in molecular simulations: no bonds are guessed to them


def radii(topology: mdtraj.Topology) -> Tensor:
    """Covalent radius of every atom in A, (N,); NaN for beads and for elements without an entry."""
    numbers = [a.element.atomic_number if a.element is not None else 0 for a in topology.atoms]
    return torch.tensor([RADII.get(z, float("nan")) for z in numbers], dtype=torch.float64)


def guess_bonds(positions: Tensor, topology: mdtraj.Topology, cell: Tensor | None = None) -> list[tuple[int, int]]:
    """Pairs of atoms closer than 1.25 times the sum of their covalent radii.

    Args:
        positions: (N, 3), A; cell: (3, 3), A, or None.

    Returns:
        sorted pairs i < j; hydrogen gets one bond at most (its nearest).
    """
    r = radii(topology)
    if len(r) < 2 or not bool(torch.isfinite(r).any()):
        return []
    cutoff = STRETCH * 2 * float(r[torch.isfinite(r)].max())
    system = System.single(positions.double(), cell=None if cell is None else cell.double())
    pairs = neighbors(system, cutoff)
    i, j = pairs.index
    distance = pairs.distances(system)
    z = [a.element.atomic_number if a.element is not None else 0 for a in topology.atoms]
    close = [
        (float(d), a, b)
        for d, a, b, limit in zip(distance.tolist(), i.tolist(), j.tolist(), (STRETCH * (r[i] + r[j])).tolist(), strict=True)
        if a < b and d < limit and z[a] not in _METALS and z[b] not in _METALS
    ]
    taken: set[int] = set()
    bonds = []
    for _, a, b in sorted(close):
        hydrogens = {k for k in (a, b) if z[k] == 1}
        if hydrogens & taken:
            continue
        taken |= hydrogens
        bonds.append((a, b))
    return sorted(bonds)
