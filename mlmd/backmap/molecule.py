"""What backmapping knows of a molecule before it has seen a structure: atoms, bonds, and the bead that every atom belongs to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mlmd.cg.groups import neighbours
from mlmd.cg.mapping import Mapping, make_molecules_whole
from mlmd.frames import Frames


@dataclass(frozen=True, eq=False)
class Molecule:
    """One molecule of N atoms and B beads.

    | field | shape | |
    |---|---|---|
    | numbers | N | atomic numbers, or other kinds of atoms |
    | owner | N | the bead that an atom is placed from |
    | weights | B N | the map M |
    | kinds | B | integer bead types |
    | bonds | | pairs of atoms |
    | bead_bonds | | pairs of beads |
    | copies | | molecules in a frame, one after the other |
    """

    numbers: Tensor
    owner: Tensor
    weights: Tensor
    kinds: Tensor
    bonds: tuple[tuple[int, int], ...]
    bead_bonds: tuple[tuple[int, int], ...]
    copies: int = 1

    @staticmethod
    def of(frames: Frames, mapping: Mapping) -> Molecule:
        """The molecule of atomistic frames under a map in which no atom is shared by two beads.

        An atom without weight in the map belongs to the bead that is fewest bonds away, in its own residue if there is one.

        Raises:
            ValueError: a map for another number of atoms, shared atoms, no bonds, atoms not bonded to any bead.
        """
        n, copies = mapping.n_atoms, mapping.n_molecules
        if frames.n_atoms != n * copies:
            raise ValueError(
                f"frames hold {frames.n_atoms} atoms, the mapping is for {copies} molecule(s) of {n}: give what it was made for"
            )
        bonds = tuple(b for b in frames.bonds if max(b) < n)
        if n > 1 and not bonds:
            raise ValueError(
                "frames: their topology has no bonds, which backmapping needs; give a topology with bonds (a PDB with CONECT)"
            )
        assert frames.types is not None
        residues = [a.residue.index for a, _ in zip(frames.topology.atoms, range(n), strict=False)]
        return Molecule(
            frames.types[:n].long(), _owners(mapping.assignment.tolist(), bonds, residues), mapping.weights.float(), mapping.types.long(),
            bonds, mapping.bonds, copies,
        )  # fmt: skip

    @property
    def n_atoms(self) -> int:
        """Atoms of one molecule."""
        return len(self.numbers)

    @property
    def n_beads(self) -> int:
        """Beads of one molecule."""
        return len(self.kinds)

    @cached_property
    def members(self) -> list[list[int]]:
        """Atoms of every bead, ascending."""
        return [torch.nonzero(self.owner == b).flatten().tolist() for b in range(self.n_beads)]

    @cached_property
    def slots(self) -> Tensor:
        """(N,) the place of every atom among those of its bead."""
        slot = torch.empty_like(self.owner)
        for atoms in self.members:
            slot[atoms] = torch.arange(len(atoms))
        return slot

    @cached_property
    def near_pairs(self) -> Tensor:
        """(E, 2) pairs of atoms one or two bonds apart, each once: what the bond graph holds at fixed distances."""
        near = neighbours(self.n_atoms, self.bonds)
        pairs = {(min(i, j), max(i, j)) for i, j in self.bonds}
        pairs |= {(i, k) for j in range(self.n_atoms) for i in near[j] for k in near[j] if i < k}
        return torch.tensor(sorted(pairs), dtype=torch.long).reshape(-1, 2)

    def beads(self, x: Tensor) -> Tensor:
        """M x: (..., N, 3) -> (..., B, 3)."""
        return self.weights.to(x) @ x

    def onto(self, x: Tensor, beads: Tensor) -> Tensor:
        """Atoms (..., N, 3) of every bead shifted as one, so that M x is ``beads`` (..., B, 3) exactly."""
        return x + (beads - self.beads(x)).index_select(-2, self.owner.to(x.device))

    def atoms_of(self, frames: Frames) -> Tensor:
        """(F copies, N, 3) positions of single molecules, whole.

        Raises:
            ValueError: frames of another molecule.
        """
        self._check(frames, self.n_atoms, self.numbers, "atoms")
        return _single(frames, self.n_atoms, self.bonds)

    def beads_of(self, beads: Frames) -> Tensor:
        """(F copies, B, 3) positions of the beads of single molecules, whole along the bonds of the beads.

        Raises:
            ValueError: beads of another molecule, or of types that are not those of the map.
        """
        self._check(beads, self.n_beads, self.kinds, "beads")
        return _single(beads, self.n_beads, self.bead_bonds)

    def _check(self, frames: Frames, size: int, kinds: Tensor, what: str) -> None:
        assert frames.types is not None
        count = frames.n_atoms // size
        if frames.n_atoms % size or not count:
            raise ValueError(
                f"frames hold {frames.n_atoms} {what}, no multiple of the {size} of this molecule: they are of another one"
            )
        wrong = torch.nonzero(frames.types.long().cpu() != kinds.cpu().repeat(count)).flatten()
        if len(wrong):
            k = int(wrong[0])
            raise ValueError(
                f"frames: particle {k} is of type {int(frames.types[k])}, this molecule has {int(kinds[k % size])} there: "
                "they are of another molecule or in another order"
            )


def _single(frames: Frames, size: int, bonds: tuple[tuple[int, int], ...]) -> Tensor:
    x = frames.positions.float()
    if frames.cell is not None:
        x = make_molecules_whole(x, frames.cell, size, bonds)
    return x.reshape(-1, size, 3)


def _owners(assignment: list[int], bonds: tuple[tuple[int, int], ...], residues: list[int]) -> Tensor:
    """Beads of all atoms; those with -1 take the bead of the nearest atom that has one, first within their residue."""
    near, owner = neighbours(len(assignment), bonds), list(assignment)
    for within in (True, False):
        reached = deque(a for a, bead in enumerate(owner) if bead >= 0)
        while reached:
            a = reached.popleft()
            for b in near[a]:
                if owner[b] < 0 and (not within or residues[a] == residues[b]):
                    owner[b] = owner[a]
                    reached.append(b)
    lost = [a for a, bead in enumerate(owner) if bead < 0]
    if lost:
        raise ValueError(
            f"atom {lost[0]} is in no bead and not bonded to an atom of one: give it a bead, or leave it out of the frames"
        )
    return torch.tensor(owner)
