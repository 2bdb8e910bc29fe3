"""Stereocentres: which atoms have a hand, and whether structures keep it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlmd.backmap.molecule import Molecule
from mlmd.cg.groups import neighbours
from mlmd.cg.symmetry import equivalent_atoms

FLAT = 0.25  # of the volume of three unit vectors to neighbours: below, a centre is planar (0.77 for a tetrahedron, 0 for a plane)


@dataclass(frozen=True, eq=False)
class Stereocentres:
    """Centres and three of their neighbours each, (K, 4), and the sign of the volume that these span in the reference, (K,)."""

    atoms: Tensor
    sign: Tensor

    def __len__(self) -> int:
        return len(self.atoms)


def stereocentres(molecule: Molecule, reference: Tensor) -> Stereocentres:
    """Atoms with at least three different neighbours that are not in a plane with them and have one hand in all of ``reference`` (R, N, 3).

    Neighbours differ if the bond graph beyond them does (Weisfeiler and Leman 1968); hydrogens may be missing.
    """
    classes = equivalent_atoms(molecule.numbers.tolist(), molecule.bonds)
    rows = []
    for centre, near in enumerate(neighbours(molecule.n_atoms, molecule.bonds)):
        if len(near) in (3, 4) and len({classes[b] for b in near}) == len(near):
            rows.append([centre, *near[:3]])
    atoms = torch.tensor(rows, dtype=torch.long).reshape(-1, 4)
    volume = volumes(reference, atoms)
    sign = volume.mean(0).sign()
    kept = ((volume * sign > FLAT).double().mean(0) > 0.99) if len(reference) else torch.zeros(len(atoms), dtype=torch.bool)
    return Stereocentres(atoms[kept], sign[kept])


def chirality(x: Tensor, centres: Stereocentres) -> float:
    """Share of the centres of structures (F, N, 3) that have the hand of the reference; NaN where there is none."""
    if not len(centres):
        return float("nan")
    return float((volumes(x, centres.atoms) * centres.sign.to(x) > 0).double().mean())


def volumes(x: Tensor, atoms: Tensor) -> Tensor:
    """(F, K) triple product of the unit vectors from each centre to three neighbours."""
    centre, *near = (x[:, column] for column in atoms.T)
    a, b, c = (torch.nn.functional.normalize(p - centre, dim=-1) for p in near)
    return (torch.linalg.cross(a, b) * c).sum(-1)
