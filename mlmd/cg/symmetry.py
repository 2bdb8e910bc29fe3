"""Which beads of a molecule are alike, so that they share a type: the two ends of ethane, the mirrored beads of a chain.

Atoms are coloured by their kind and refined by the colours of their neighbours along bonds and of the atoms in their bead, until nothing
changes (Weisfeiler and Leman, Nauchno-Tekhnicheskaya Informatsia 2, 12 (1968)); this tells apart exactly what no symmetry of the graph
joins if the molecule has no rings, and never joins beads of different kinds of atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlmd.cg.groups import neighbours
from mlmd.cg.mapping import Mapping, molecule_of
from mlmd.frames import Frames

if TYPE_CHECKING:
    import mdtraj

DIGITS = 6  # weights that agree to so many are the same


def with_equivalent_types(mapping: Mapping, source: Frames | mdtraj.Topology, reach: int | None = None) -> Mapping:
    """The same map with one type per set of equivalent beads, numbered in the order of the beads.

    Args:
        source: what the map was made for; kinds of atoms are the types of frames, or the elements of a topology.
        reach: beads share a type if no atom so many bonds away, or further, has to be looked at to tell them apart: 0 looks at the
            kinds and weights of their own atoms alone, so that a chain has end beads and inner beads. None: the whole molecule.

    Raises:
        ValueError: if the molecule of ``source`` has another number of atoms than the map; a negative reach.
    """
    mol = molecule_of(source, mapping.n_molecules)
    if mol.n != mapping.n_atoms:
        raise ValueError(
            f"source: its molecules have {mol.n} atoms, the mapping {mapping.n_atoms}; give what the mapping was made for"
        )
    if isinstance(source, Frames):
        assert source.types is not None
        kinds = [int(t) for t in source.types[: mol.n]]
    else:
        kinds = mol.elements
    return replace(mapping, types=equivalent_beads(mapping, kinds, reach))


def equivalent_beads(mapping: Mapping, kinds: list[int], reach: int | None = None) -> Tensor:
    """Integer types (B,) of the beads; kinds: (N,) integer kinds of the atoms of one molecule; reach: as above."""
    if reach is not None and reach < 0:
        raise ValueError(f"reach={reach}: must be 0 or more, or None for the whole molecule")
    adjacent = neighbours(mapping.n_atoms, mapping.atom_bonds)
    beads = [[(a, round(float(w), DIGITS)) for a, w in enumerate(row) if w != 0] for row in mapping.weights]
    colour = _numbered(kinds)
    rounds = 0
    while rounds != reach:
        told = [[] for _ in colour]  # type: list[list[tuple[float, list[tuple[int, float]]]]]
        for bead in beads:
            inside = sorted((colour[a], w) for a, w in bead)
            for a, w in bead:
                told[a].append((w, inside))
        seen = [(colour[a], sorted(colour[b] for b in adjacent[a]), sorted(told[a])) for a in range(len(colour))]
        finer = _numbered(seen)
        if max(finer) == max(colour):
            break
        colour, rounds = finer, rounds + 1
    return torch.tensor(_numbered([sorted((colour[a], w) for a, w in bead) for bead in beads]))


def equivalent_atoms(kinds: Sequence[int], bonds: Sequence[tuple[int, int]]) -> list[int]:
    """Equal numbers for atoms of the given kinds that their bonds do not tell apart."""
    adjacent, colour = neighbours(len(kinds), bonds), _numbered(list(kinds))
    while True:
        finer = _numbered([(c, sorted(colour[b] for b in adjacent[a])) for a, c in enumerate(colour)])
        if max(finer) == max(colour):
            return colour
        colour = finer


def _numbered(labels: list) -> list[int]:
    """Integers from 0 for equal labels, in the order of their first appearance."""
    order: dict[str, int] = {}
    return [order.setdefault(repr(x), len(order)) for x in labels]
