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


def atomic_numbers(topology: mdtraj.Topology) -> list[int]:
    """Atomic number of every particle; 0 for beads."""
    return [a.element.atomic_number if a.element is not None else 0 for a in topology.atoms]


def radii(numbers: list[int]) -> Tensor:
    """Covalent radii in A, (N,); NaN for beads and for elements without an entry."""
    return torch.tensor([RADII.get(z, float("nan")) for z in numbers], dtype=torch.float64)


def unbonded(topology: mdtraj.Topology) -> list[int]:
    """Atoms of residues with several atoms and no bond at all: molecules of which the file names no bonds."""
    bonded = {a.residue.index for bond in topology.bonds for a in bond}
    return [a.index for r in topology.residues if r.index not in bonded and r.n_atoms > 1 for a in r.atoms]


def guess_bonds(positions: Tensor, numbers: list[int], cell: Tensor | None = None) -> list[tuple[int, int]]:
    """Pairs of atoms closer than 1.25 times the sum of their covalent radii.

    Args:
        positions: (N, 3), A; numbers: N atomic numbers; cell: (3, 3), A, or None.

    Returns:
        sorted pairs i < j; hydrogen gets one bond at most (its nearest).
    """
    r = radii(numbers)
    if len(r) < 2 or not bool(torch.isfinite(r).any()):
        return []
    system = System.single(positions.double(), cell=None if cell is None else cell.double())
    pairs = neighbors(system, STRETCH * 2 * float(r[torch.isfinite(r)].max()))
    i, j = pairs.index
    distance = pairs.distances(system)
    bondable = torch.tensor([z not in _METALS for z in numbers])
    near = (i < j) & (distance < STRETCH * (r[i] + r[j])) & bondable[i] & bondable[j]
    taken: set[int] = set()
    bonds: set[tuple[int, int]] = set()
    for _, a, b in sorted(zip(distance[near].tolist(), i[near].tolist(), j[near].tolist(), strict=True)):
        hydrogens = {k for k in (a, b) if numbers[k] == 1}
        if not hydrogens & taken:
            taken |= hydrogens
            bonds.add((a, b))
    return sorted(bonds)
