r"""How good atomistic structures are, by measures that cannot flatter: every error counts once and none cancels another.

Structures (..., N, 3) in A are compared where the beads put them: nothing is superposed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from mlmd.backmap.molecule import Molecule
from mlmd.backmap.stereo import chirality, stereocentres
from mlmd.io.bonds import radii
from mlmd.observables.geometry import angles, dihedrals, distances
from mlmd.observables.histogram import density, overlap
from mlmd.observables.terms import internal_terms
from mlmd.potentials.pair import bonded_within

STRETCH = 1.3  # of the sum of covalent radii, within which two atoms count as bonded (Wang et al., ICML 2022)
OVERLAP = 0.4  # A by which spheres of van der Waals may overlap before it is a clash (Word et al., J. Mol. Biol. 285, 1711 (1999))
HYDROGEN_BOND = 1.0  # A: the same where a hydrogen of N, O or S meets an N, O or S
# radii of van der Waals in A: A. Bondi, J. Phys. Chem. 68, 441 (1964); hydrogen: Rowland and Taylor, J. Phys. Chem. 100, 7384 (1996)
VAN_DER_WAALS = {1: 1.10, 6: 1.70, 7: 1.55, 8: 1.52, 9: 1.47, 15: 1.80, 16: 1.80, 17: 1.75, 35: 1.85, 53: 1.98}
APART = 4  # bonds between atoms that may clash
CHUNK = 2_000_000  # pairs of atoms at a time


def rmsd(x: Tensor, reference: Tensor, atoms: Tensor | None = None) -> float:
    r""":math:`\sqrt{\langle|x-x_{ref}|^2\rangle}` over atoms (all, or those of a mask or index) and structures, in A."""
    difference = x - reference
    if atoms is not None:
        difference = difference[..., atoms, :]
    return float(difference.double().square().sum(-1).mean().sqrt())


def best_rmsd(samples: Tensor, reference: Tensor, atoms: Tensor | None = None) -> float:
    """Mean over the structures of the smallest RMSD among ``n`` samples (n, F, N, 3) of each, in A."""
    difference = samples - reference
    if atoms is not None:
        difference = difference[..., atoms, :]
    return float(difference.double().square().sum(-1).mean(-1).sqrt().min(0).values.mean())


def diversity(samples: Tensor, atoms: Tensor | None = None) -> float:
    r"""Root mean square distance of two samples of the same beads, over atoms, pairs of samples and structures, in A.

    Samples are (n, F, N, 3); :math:`\sqrt{\tfrac{2n}{n-1}\langle|x-\bar x|^2\rangle}`.

    Raises:
        ValueError: fewer than two samples.
    """
    n = len(samples)
    if n < 2:
        raise ValueError(f"samples: {n} of each structure; diversity needs at least two")
    x = (samples if atoms is None else samples[..., atoms, :]).double()
    return float((2 * n / (n - 1) * (x - x.mean(0)).square().sum(-1).mean()).sqrt())


def bond_graph(x: Tensor, numbers: Tensor) -> Tensor:
    """(F, P) whether each of the P pairs i < j of N atoms is closer than 1.3 times the sum of the covalent radii; x: (F, N, 3)."""
    i, j = torch.triu_indices(len(numbers), len(numbers), 1)
    r = radii(numbers.tolist()).to(x)
    reach = STRETCH * (r[i] + r[j])
    parts = [torch.linalg.vector_norm(part[:, i] - part[:, j], dim=-1) < reach for part in _chunks(x, len(i))]
    return torch.cat(parts) if parts else x.new_zeros(0, len(i), dtype=torch.bool)


def graph_of_bonds(bonds: tuple[tuple[int, int], ...], n: int) -> Tensor:
    """(P,) the same of a list of bonds."""
    graph = torch.zeros(n, n, dtype=torch.bool)
    for a, b in bonds:
        graph[min(a, b), max(a, b)] = True
    i, j = torch.triu_indices(n, n, 1)
    return graph[i, j]


def graph_errors(graph: Tensor, reference: Tensor) -> Tensor:
    r""":math:`\lambda=\sum|A-A_{ref}|/\sum A_{ref}` of every structure, (F,): bonds too many and too few both count.

    graph: (F, P); reference: (F, P) or (P,). (Wang et al., ICML 2022; summed before the absolute value, the two would cancel.)
    """
    wrong = (graph ^ reference).sum(-1).double()
    return wrong / reference.expand_as(graph).sum(-1).clamp(min=1).double()


def clashes(x: Tensor, molecule: Molecule) -> Tensor:
    """(F,) pairs of atoms at least four bonds apart whose spheres of van der Waals overlap by more than 0.4 A (1 A in hydrogen bonds)."""
    i, j, least = _may_clash(molecule)
    parts = [(torch.linalg.vector_norm(part[:, i] - part[:, j], dim=-1) < least.to(part)).sum(-1) for part in _chunks(x, len(i))]
    return torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.long)


def _may_clash(molecule: Molecule) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs i, j at least APART bonds apart, and the distance in A below which they clash."""
    n, z = molecule.n_atoms, molecule.numbers
    i, j = torch.nonzero(torch.triu(~bonded_within(molecule.bonds, n, APART - 1), 1)).T
    polar = torch.tensor([zz in (7, 8, 16) for zz in z.tolist()])
    polar_h = (z == 1) & (bonded_within(molecule.bonds, n, 1) & polar).any(1)
    bridged = (polar_h[i] & polar[j]) | (polar_h[j] & polar[i])
    r = torch.tensor([VAN_DER_WAALS.get(zz, 1.7) for zz in z.tolist()])
    return i, j, r[i] + r[j] - torch.where(bridged, HYDROGEN_BOND, OVERLAP)


def _chunks(x: Tensor, pairs: int) -> tuple[Tensor, ...]:
    return x.split(max(1, CHUNK // max(1, pairs))) if len(x) else ()


@dataclass(frozen=True)
class Quality:
    """Measures of samples (n, F, N, 3) beside a reference; lengths in A, the rest shares or numbers per structure.

    | field | |
    |---|---|
    | rmsd, rmsd_heavy | of the samples from the reference structures; NaN without them |
    | best, best_heavy | of the nearest of the n samples of every structure |
    | graph_error, graph_error_heavy | mean of :func:`graph_errors` |
    | valid, valid_heavy | share of samples whose bond graph has no error |
    | clashes, clashes_reference | :func:`clashes` per sample, and per reference structure |
    | bonds, angles, dihedrals | overlap of the densities of samples and reference, mean over the terms; 1 is equal |
    | worst_dihedral | the smallest overlap of a dihedral |
    | chirality | share of stereocentres with the hand of the reference |
    | diversity, diversity_heavy | :func:`diversity` |
    | samples, structures | n, F |
    """

    rmsd: float
    rmsd_heavy: float
    best: float
    best_heavy: float
    graph_error: float
    graph_error_heavy: float
    valid: float
    valid_heavy: float
    clashes: float
    clashes_reference: float
    bonds: float
    angles: float
    dihedrals: float
    worst_dihedral: float
    chirality: float
    diversity: float
    diversity_heavy: float
    samples: int
    structures: int

    def to_dict(self) -> dict[str, float]:
        """All numbers by name."""
        return asdict(self)


def quality(samples: Tensor, reference: Tensor, molecule: Molecule, *, paired: bool = True) -> Quality:
    """Everything at once.

    Args:
        samples: (n, F, N, 3). reference: (R, N, 3) structures of the same molecule.
        paired: whether reference structure f belongs to the beads of samples[:, f] (R = F); else it serves for distributions and
            hands alone, and graphs are compared with the bonds of the molecule.

    Raises:
        ValueError: shapes that do not belong together.
    """
    n = molecule.n_atoms
    if samples.ndim != 4 or samples.shape[2:] != (n, 3) or reference.ndim != 3 or reference.shape[1:] != (n, 3):
        raise ValueError(f"samples {tuple(samples.shape)}, reference {tuple(reference.shape)}: need (n, F, {n}, 3) and (R, {n}, 3)")
    if paired and len(reference) != samples.shape[1]:
        raise ValueError(
            f"reference has {len(reference)} structures for {samples.shape[1]} sets of beads: give one each, or paired=False"
        )
    heavy, flat = molecule.numbers != 1, samples.flatten(0, 1)
    i, j = torch.triu_indices(n, n, 1)
    of_heavy = heavy[i] & heavy[j]
    graph = bond_graph(flat, molecule.numbers)
    true = bond_graph(reference, molecule.numbers).repeat(len(samples), 1) if paired else graph_of_bonds(molecule.bonds, n)
    wrong = {"": graph_errors(graph, true), "_heavy": graph_errors(graph[:, of_heavy], true[..., of_heavy])}
    numbers: dict[str, float] = {}
    for name, atoms in (("", None), ("_heavy", heavy)):
        numbers["rmsd" + name] = rmsd(samples, reference, atoms) if paired else float("nan")
        numbers["best" + name] = best_rmsd(samples, reference, atoms) if paired else float("nan")
        numbers["graph_error" + name] = float(wrong[name].mean())
        numbers["valid" + name] = float((wrong[name] == 0).double().mean())
        numbers["diversity" + name] = diversity(samples, atoms) if len(samples) > 1 else float("nan")
    dihedral = term_overlaps(flat, reference, molecule, "dihedrals")
    return Quality(
        **numbers,
        clashes=float(clashes(flat, molecule).double().mean()),
        clashes_reference=float(clashes(reference, molecule).double().mean()),
        bonds=_mean(term_overlaps(flat, reference, molecule, "bonds")),
        angles=_mean(term_overlaps(flat, reference, molecule, "angles")),
        dihedrals=_mean(dihedral),
        worst_dihedral=float(dihedral.min()) if len(dihedral) else float("nan"),
        chirality=chirality(flat, stereocentres(molecule, reference)),
        samples=len(samples),
        structures=samples.shape[1],
    )


def term_overlaps(x: Tensor, reference: Tensor, molecule: Molecule, kind: str) -> np.ndarray:
    """(K,) overlap of the densities of every bond, angle or dihedral: the integral of the lower of both, 1 where they are equal."""
    index = getattr(internal_terms(molecule.n_atoms, molecule.bonds), kind)
    measure = {"bonds": distances, "angles": angles, "dihedrals": dihedrals}[kind]
    found = []
    for a, b in zip(measure(x.double(), index).T.numpy(), measure(reference.double(), index).T.numpy(), strict=True):
        if kind == "dihedrals":
            found.append(overlap(density(a, bins=36, periodic=True), density(b, bins=36, periodic=True)))
            continue
        spread = max(float(b.std()), 1e-3)  # a constrained length has none: 0.001 A then
        limits = (float(b.mean()) - 6 * spread, float(b.mean()) + 6 * spread)
        found.append(overlap(*(density(v, bins=36, limits=limits) for v in (a, b))))
    return np.array(found)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
