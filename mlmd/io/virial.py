"""Do the forces belong to the positions? The virial of molecules against kT."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlmd.cell import make_whole, spanning_tree
from mlmd.frames import Frames

N_BLOCKS = 20


class Virial(NamedTuple):
    """Mean of the virial per relative degree of freedom, in eV: equal to kT for forces that match the positions."""

    value: float
    error: float  # one standard error, from the scatter of block means


def virial(frames: Frames) -> Virial | None:
    r"""Virial of every molecule about its centroid, per relative degree of freedom.

    .. math:: -\frac{\langle\sum_m\sum_{i\in m} (r_i - c_m)\cdot f_i\rangle}{\sum_m (3 n_m - 3)} = k_B T

    It follows from the canonical distribution by partial integration along the breathing of each molecule, whatever surrounds
    it, as long as f contains all forces; forces of constraints are missing from files, so it does not hold with them.
    A system without a box is taken as one molecule.

    Returns:
        None where there is nothing to compare: no forces, single atoms only, or fewer frames than blocks.

    Source: R. C. Tolman, Phys. Rev. 11, 261 (1918) (generalised equipartition).
    """
    if frames.forces is None or len(frames) < N_BLOCKS:
        return None
    molecule = molecules(frames)
    counts = torch.bincount(molecule).double()
    degrees = float((3 * counts - 3).sum())
    if degrees == 0:
        return None
    x = frames.positions.double()
    if frames.cell is not None:
        x = make_whole(x, frames.cell.double(), frames.bonds)
    centre = torch.zeros(len(x), len(counts), 3, dtype=x.dtype).index_add_(1, molecule, x) / counts[:, None]
    w = -((x - centre[:, molecule]) * frames.forces.double()).sum((1, 2)) / degrees
    return Virial(float(w.mean()), standard_error(w))


def molecules(frames: Frames) -> Tensor:
    """Index of the molecule of every atom, (N,): connected by bonds, or all one where there is no box."""
    n = frames.n_atoms
    if frames.cell is None:
        return torch.zeros(n, dtype=torch.long)
    root = list(range(n))
    for parent, child in spanning_tree(n, frames.bonds):
        root[child] = root[parent]
    return torch.unique(torch.tensor(root), return_inverse=True)[1]


def standard_error(values: Tensor, n_blocks: int = N_BLOCKS) -> float:
    """Standard error of the mean from contiguous blocks: std(block means) / sqrt(blocks)."""
    size = len(values) // n_blocks
    means = values[: size * n_blocks].reshape(n_blocks, size).mean(1)
    return float(means.std() / n_blocks**0.5)
