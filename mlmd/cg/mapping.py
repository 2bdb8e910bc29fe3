r"""``Mapping``: linear maps from atoms to beads, with force maps, masses and the topology of the beads.

:math:`X = Mx` with rows of :math:`M` that sum to one, :math:`F = Cf` with :math:`CM^T=1` (see :mod:`mlmd.cg.force_map`), and bead masses
:math:`M_I = (\sum_j M_{Ij}^2/m_j)^{-1}`, with which momenta map consistently (Noid et al., J. Chem. Phys. 128, 244114 (2008)).
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mlmd import units
from mlmd.cell import make_whole
from mlmd.cg import force_map
from mlmd.cg import groups as grouping
from mlmd.frames import Frames, bead_topology

if TYPE_CHECKING:
    import mdtraj

Weighting = Literal["mass", "centroid"]
Groups = Sequence[Sequence[int]] | Dict[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Mapping:
    """A map of one molecule of N atoms to B beads, applied to ``n_molecules`` copies that stand one after the other.

    | field | shape | |
    |---|---|---|
    | weights | B N | M, rows sum to 1 |
    | force_weights | B N | C, with C M^T = 1 |
    | atom_masses | N | eV fs^2/A^2 |
    | names | B | bead names, at most four characters |
    | types | B | integer bead types |
    | bonds | | pairs of beads of one molecule |
    | atom_bonds | | pairs of atoms of one molecule, along which molecules are made whole |
    | n_molecules | | copies |
    | provenance | | dict of text and numbers |
    """

    weights: Float[Tensor, "B N"]
    force_weights: Float[Tensor, "B N"]
    atom_masses: Float[Tensor, " N"]
    names: tuple[str, ...]
    types: Int[Tensor, " B"]
    bonds: tuple[tuple[int, int], ...] = ()
    atom_bonds: tuple[tuple[int, int], ...] = ()
    n_molecules: int = 1
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or not 1 <= self.weights.shape[0] <= self.weights.shape[1]:
            raise ValueError(f"weights has shape {tuple(self.weights.shape)}, expected (beads, atoms) with 1 <= beads <= atoms")
        b, n = self.weights.shape
        empty = torch.nonzero((self.weights == 0).all(1)).flatten().tolist()
        if empty:
            raise ValueError(f"bead {empty[0]} is empty: give it at least one atom, or ask for fewer beads")
        if not bool((self.weights.sum(1) - 1).abs().max() <= 1e-6):
            raise ValueError("weights: every row must sum to 1, so that beads move with the atoms")
        for name, length in (("atom_masses", n), ("names", b), ("types", b)):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, expected {length}")
        if not bool((self.atom_masses > 0).all()):
            raise ValueError("atom_masses must be positive: leave out massless sites before mapping")
        if self.n_molecules < 1:
            raise ValueError(f"n_molecules={self.n_molecules}: at least one molecule is needed")
        force_map.check(self.weights, self.force_weights)

    @property
    def n_beads(self) -> int:
        """Beads of one molecule."""
        return self.weights.shape[0]

    @property
    def n_atoms(self) -> int:
        """Atoms of one molecule."""
        return self.weights.shape[1]

    @cached_property
    def masses(self) -> Float[Tensor, " B"]:
        """Bead masses of one molecule, M_I = 1 / sum_j (M_Ij^2 / m_j), in eV fs^2/A^2."""
        return 1.0 / (self.weights.square() / self.atom_masses).sum(1)

    @cached_property
    def one_hot(self) -> bool:
        """Whether every atom has weight in at most one bead."""
        return bool(((self.weights != 0).sum(0) <= 1).all())

    @cached_property
    def assignment(self) -> Int[Tensor, " N"]:
        """Bead of every atom of one molecule, -1 for atoms without weight.

        Raises:
            ValueError: if atoms are shared between beads.
        """
        if not self.one_hot:
            raise ValueError("assignment needs a map in which every atom belongs to one bead; this one shares atoms between beads")
        used = (self.weights != 0).any(0)
        return torch.where(used, (self.weights != 0).long().argmax(0), -1)

    def positions(self, x: Float[Tensor, "... n 3"]) -> Float[Tensor, "... b 3"]:
        """Bead positions M x of molecules that are whole; n = n_molecules * N."""
        return self._apply(self.weights, x, "positions")

    def forces(self, f: Float[Tensor, "... n 3"]) -> Float[Tensor, "... b 3"]:
        """Bead forces C f."""
        return self._apply(self.force_weights, f, "forces")

    def _apply(self, matrix: Tensor, values: Tensor, name: str) -> Tensor:
        n, m = self.n_atoms, self.n_molecules
        if values.ndim < 2 or values.shape[-2:] != (m * n, 3):
            raise ValueError(f"{name} has shape {tuple(values.shape)}, expected (..., {m * n}, 3) for {m} molecule(s) of {n} atoms")
        out = matrix.to(values) @ values.unflatten(-2, (m, n))
        return out.flatten(-3, -2)

    def topology(self) -> mdtraj.Topology:
        """Beads and their bonds as virtual sites, every molecule one residue."""
        return bead_topology(list(self.names), list(self.bonds), self.n_molecules)

    def whole(self, x: Float[Tensor, "F n 3"], cell: Float[Tensor, "F 3 3"]) -> Float[Tensor, "F n 3"]:
        """Positions with every molecule in one piece, at the periodic image of its first atom.

        Walks along bonds; atoms of one bead that no bonds connect are brought to the image nearest to the first atom of the bead.
        """
        return make_molecules_whole(x, cell, self.n_atoms, self._links)

    @cached_property
    def _links(self) -> list[tuple[int, int]]:
        links = list(self.atom_bonds)
        for row in self.weights:
            first, *rest = torch.nonzero(row).flatten().tolist()
            for atom in rest:
                part = next(c for c in grouping.components(self.n_atoms, links) if first in c)
                if atom not in part:
                    links.append((first, atom))
        return links

    def apply(self, frames: Frames) -> Frames:
        """The same trajectory seen as beads: molecules made whole, then positions and forces mapped.

        Cell, time, kT and provenance are kept; energies are dropped, because beads have a free energy instead. Molecules
        stay in one piece and may stick out of the cell.

        Raises:
            ValueError: if the number of atoms does not fit.
        """
        expected = self.n_molecules * self.n_atoms
        if frames.n_atoms != expected:
            raise ValueError(
                f"frames hold {frames.n_atoms} atoms, the mapping expects {expected} ({self.n_molecules} x {self.n_atoms}): "
                "select the same atoms that the mapping was made for"
            )
        x = frames.positions if frames.cell is None else self.whole(frames.positions, frames.cell)
        return Frames(
            positions=self.positions(x),
            topology=self.topology(),
            forces=None if frames.forces is None else self.forces(frames.forces),
            cell=frames.cell,
            time=frames.time,
            masses=self.masses.repeat(self.n_molecules),
            types=self.types.repeat(self.n_molecules),
            kT=frames.kT,
            provenance={**frames.provenance, "mapping": self.provenance},
        )

    def with_force_weights(self, force_weights: Float[Tensor, "B N"], **provenance: Any) -> Mapping:
        """The same beads with another exact force map."""
        return replace(self, force_weights=force_weights, provenance={**self.provenance, **provenance})

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` of arrays and JSON; whole or absent."""
        from mlmd.store import write_npz

        arrays = {k: getattr(self, k).cpu().numpy() for k in ("weights", "force_weights", "atom_masses", "types")}
        for k in ("bonds", "atom_bonds"):
            arrays[k] = np.array(getattr(self, k), dtype=np.int64).reshape(-1, 2)
        meta = {"kind": "mlmd.cg.Mapping", "version": 1, "names": list(self.names), "n_molecules": self.n_molecules}
        return write_npz(path, arrays, {**meta, "provenance": self.provenance})

    @staticmethod
    def load(path: str | Path) -> Mapping:
        """Read what ``save`` wrote."""
        from mlmd.store import read_npz

        arrays, meta = read_npz(path, kind="mlmd.cg.Mapping")
        pairs: dict[str, Any] = {k: tuple((int(i), int(j)) for i, j in arrays.pop(k)) for k in ("bonds", "atom_bonds")}
        tensors: dict[str, Any] = {k: torch.from_numpy(v) for k, v in arrays.items()}
        return Mapping(
            names=tuple(meta["names"]), n_molecules=meta["n_molecules"], provenance=meta["provenance"], **pairs, **tensors
        )


@dataclass(frozen=True, eq=False)
class Molecule:
    """What a constructor needs to know of one molecule out of ``copies`` identical ones."""

    topology: Any
    n: int
    masses: Tensor
    bonds: tuple[tuple[int, int], ...]
    constraints: tuple[tuple[int, int], ...]
    copies: int

    @property
    def elements(self) -> list[int]:
        """Atomic numbers, 0 for virtual sites."""
        return [0 if a.element is None else a.element.number for a in self.atoms]

    @property
    def atoms(self) -> list[Any]:
        """The atoms of the first copy."""
        return [self.topology.atom(i) for i in range(self.n)]


def molecule_of(source: Frames | mdtraj.Topology, n_molecules: int | None = None) -> Molecule:
    """The repeating molecule of ``source``; ``n_molecules`` overrides what the bonds say.

    Raises:
        ValueError: if the atoms cannot be divided into that many equal molecules, or the molecules are of different kinds.
    """
    topology = source.topology if isinstance(source, Frames) else source
    total = topology.n_atoms
    copies = grouping.identical_molecules(topology) if n_molecules is None else n_molecules
    if copies < 1 or total % copies:
        raise ValueError(f"n_molecules={copies} does not divide the {total} atoms of the topology")
    n = total // copies
    pairs = sorted({(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds})
    if isinstance(source, Frames):
        assert source.masses is not None
        masses, rigid = source.masses, [] if source.constraints is None else source.constraints.tolist()
    else:
        mass = [0.0 if a.element is None else a.element.mass for a in topology.atoms]
        masses, rigid = torch.tensor(mass, dtype=torch.float64) * units.amu, []
    other = torch.nonzero((masses.reshape(copies, n) - masses[:n]).abs().amax(1) > 1e-3 * units.amu).flatten().tolist()
    if other:
        raise ValueError(
            f"n_molecules={copies}: molecule {other[0]} has other atoms than molecule 0, but one map serves molecules of one kind: "
            "take those of one kind first, frames.atoms('resname ...')"
        )
    inside = tuple((i, j) for i, j in pairs if i < n and j < n)
    return Molecule(topology, n, masses[:n].double(), inside, tuple((int(i), int(j)) for i, j in rigid if i < n and j < n), copies)


def by_groups(
    source: Frames | mdtraj.Topology,
    groups: Groups,
    weighting: Weighting = "mass",
    *,
    types: Sequence[int] | None = None,
    n_molecules: int | None = None,
    provenance: Dict[str, Any] | None = None,
) -> Mapping:
    """One bead per group of atoms, at its centre of mass or centroid.

    Args:
        source: frames (their masses and rigid bonds are used) or a topology (masses of the elements).
        groups: lists of atom indices, or a dict from bead names to them. Where the source holds several identical molecules,
            indices within the first one describe all. Atoms in no group have no weight.
        weighting: "mass" or "centroid".
        types: integer type per group; default: each its own.

    Raises:
        ValueError: no group, more groups than atoms, an empty group, an index out of range, an atom twice.
    """
    lists = [[int(a) for a in g] for g in (groups.values() if isinstance(groups, Dict) else groups)]
    mol = molecule_of(source, n_molecules)
    if n_molecules is None and any(a >= mol.n for g in lists for a in g):
        mol = molecule_of(source, 1)  # the groups speak of the whole system
    _check_groups(lists, mol.n)
    names = tuple(groups) if isinstance(groups, Dict) else tuple(f"B{k}" for k in range(len(lists)))
    weights = torch.zeros(len(lists), mol.n, dtype=torch.float64)
    for k, atoms in enumerate(lists):
        w = mol.masses[atoms] if _check_weighting(weighting) == "mass" else torch.ones(len(atoms), dtype=torch.float64)
        weights[k, atoms] = w / w.sum()
    note = {"kind": "groups", "weighting": weighting, **(provenance or {})}
    return _build(mol, weights, names, types, note)


def from_assignment(
    source: Frames | mdtraj.Topology, assignment: Sequence[int] | Tensor, weighting: Weighting = "mass", **options: Any
) -> Mapping:
    """One bead per label; ``assignment`` holds 0 ... B-1 for every atom of a molecule, or -1 for an atom left out.

    Raises:
        ValueError: as :func:`by_groups`; an unused label is an empty bead.
    """
    label = torch.as_tensor(assignment).tolist()
    lists = [[a for a, b in enumerate(label) if b == k] for k in range(1 + max(label, default=-1))]
    return by_groups(source, lists, weighting, **options)


def by_residue(source: Frames | mdtraj.Topology, weighting: Weighting = "mass", *, n_molecules: int | None = None) -> Mapping:
    """One bead per residue; residues of the same name share a type."""
    mol = molecule_of(source, n_molecules)
    lists: dict[int, list[int]] = {}
    for atom in mol.atoms:
        lists.setdefault(atom.residue.index, []).append(atom.index)
    residues = [mol.atoms[g[0]].residue.name for g in lists.values()]
    note = {"kind": "residue"}
    out = by_groups(source, list(lists.values()), weighting, types=_kinds(residues), n_molecules=mol.copies, provenance=note)
    return replace(out, names=tuple(r[:4] for r in residues))


def alpha_carbon(source: Frames | mdtraj.Topology, *, n_molecules: int | None = None) -> Mapping:
    """One bead on every alpha carbon, typed by residue name.

    Raises:
        ValueError: if there is no alpha carbon.
    """
    mol = molecule_of(source, n_molecules)
    carbons = [a for a in mol.atoms if a.name == "CA" and a.element is not None and a.element.symbol == "C"]
    if not carbons:
        raise ValueError("the topology has no alpha carbon (carbon named CA): use by_groups, by_residue or select_atoms")
    out = select_atoms(source, [a.index for a in carbons], n_molecules=mol.copies, provenance={"kind": "alpha carbon"})
    return replace(out, types=torch.tensor(_kinds([a.residue.name for a in carbons])))


def select_atoms(
    source: Frames | mdtraj.Topology,
    atoms: Sequence[int] | str,
    *,
    n_molecules: int | None = None,
    provenance: Dict[str, Any] | None = None,
) -> Mapping:
    """Slice map: every bead sits on one atom; forces of atoms rigidly bound to it are added to its own.

    Beads are bonded if the regions of atoms nearest to them along bonds touch.

    Args:
        atoms: indices, or a selection in mdtraj's language such as ``"name CA or name CB"``.
    """
    mol = molecule_of(source, n_molecules)
    chosen = [int(a) for a in (mol.topology.select(atoms) if isinstance(atoms, str) else atoms)]
    chosen = [a for a in chosen if a < mol.n] if isinstance(atoms, str) else chosen
    if not chosen:
        raise ValueError(f"atoms={atoms!r} selects nothing: a slice map needs at least one atom")
    note = {"kind": "slice", **(provenance or {})}
    out = by_groups(source, [[a] for a in chosen], "centroid", n_molecules=n_molecules, provenance=note)
    names = [out_name.name[:4] for out_name in (mol.topology.atom(a) for a in chosen)]
    return replace(out, names=tuple(names))


def sequence(source: Frames | mdtraj.Topology, n_beads: int, weighting: Weighting = "mass") -> Mapping:
    """Runs of consecutive atoms, as equally long as possible."""
    mol = molecule_of(source)
    check_n_beads(n_beads, mol.n)
    return by_groups(source, grouping.sequence_groups(mol.n, n_beads), weighting, provenance={"kind": "sequence"})


def backbone(source: Frames | mdtraj.Topology, n_beads: int, weighting: Weighting = "mass") -> Mapping:
    """Pieces of the main chain, each with the side atoms that hang on it (:func:`mlmd.cg.groups.backbone_groups`)."""
    mol = molecule_of(source)
    check_n_beads(n_beads, mol.n)
    lists = grouping.backbone_groups(mol.elements, mol.bonds, n_beads)
    return by_groups(source, lists, weighting, provenance={"kind": "backbone"})


def random(
    source: Frames | mdtraj.Topology, n_beads: int, seed: int = 0, weighting: Weighting = "mass", *, connected: bool = False
) -> Mapping:
    """A random partition; with ``connected`` the atoms of every bead hang together, else they usually do not."""
    mol = molecule_of(source)
    check_n_beads(n_beads, mol.n)
    if connected:
        lists = grouping.random_connected_groups(mol.n, mol.bonds, n_beads, seed)
    else:
        lists = grouping.random_groups(mol.n, n_beads, seed)
    return by_groups(source, lists, weighting, provenance={"kind": "random", "seed": seed, "connected": connected})


def molecule(source: Frames | mdtraj.Topology, weighting: Weighting = "mass") -> Mapping:
    """One bead per molecule."""
    mol = molecule_of(source)
    return by_groups(source, [list(range(mol.n))], weighting, n_molecules=mol.copies, provenance={"kind": "molecule"})


def make_molecules_whole(
    x: Float[Tensor, "F n 3"], cell: Float[Tensor, "F 3 3"], size: int, bonds: Sequence[tuple[int, int]]
) -> Float[Tensor, "F n 3"]:
    """Make equal molecules of ``size`` atoms whole along the bonds of the first, all molecules at once."""
    copies = x.shape[1] // size
    each = make_whole(x.reshape(-1, size, 3), cell.to(x).repeat_interleave(copies, 0), bonds)
    return each.reshape(x.shape)


def _build(mol: Molecule, weights: Tensor, names: tuple[str, ...], types: Sequence[int] | None, note: dict[str, Any]) -> Mapping:
    kinds = torch.arange(len(weights)) if types is None else torch.as_tensor(types, dtype=torch.long)
    return Mapping(
        weights=weights,
        force_weights=force_map.default(weights, mol.constraints),
        atom_masses=mol.masses,
        names=names,
        types=kinds,
        bonds=induced_bonds(weights, mol.bonds),
        atom_bonds=mol.bonds,
        n_molecules=mol.copies,
        provenance=note,
    )


def induced_bonds(weights: Tensor, bonds: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Beads are bonded if an atomic bond joins their atoms; atoms without weight count to the bead nearest along bonds."""
    n = weights.shape[1]
    owned = [int(a) for a in torch.nonzero((weights != 0).any(0)).flatten()]
    owner = weights.abs().argmax(0)[owned].tolist()
    nearest = grouping.nearest_seed(n, bonds, owned)
    label = [owner[s] if s >= 0 else -1 for s in nearest]
    pairs = {(min(label[i], label[j]), max(label[i], label[j])) for i, j in bonds}
    return tuple(sorted((i, j) for i, j in pairs if i != j and i >= 0))


def _kinds(labels: Sequence[str]) -> list[int]:
    order = list(dict.fromkeys(labels))
    return [order.index(x) for x in labels]


def _check_weighting(weighting: str) -> str:
    if weighting not in ("mass", "centroid"):
        raise ValueError(f"weighting={weighting!r}: choose 'mass' or 'centroid'")
    return weighting


def check_n_beads(n_beads: int, n: int) -> None:
    """Refuse fewer than one bead, or more beads than atoms."""
    if not 1 <= n_beads <= n:
        raise ValueError(f"n_beads={n_beads}: choose a number from 1 to the {n} atoms of the molecule")


def _check_groups(lists: list[list[int]], n: int) -> None:
    check_n_beads(len(lists), n)
    seen: dict[int, int] = {}
    for k, atoms in enumerate(lists):
        if not atoms:
            raise ValueError(f"groups[{k}] is empty: give every bead at least one atom")
        for a in atoms:
            if not 0 <= a < n:
                raise ValueError(f"groups[{k}] names atom {a}, but indices run from 0 to {n - 1}")
            if a in seen:
                raise ValueError(f"atom {a} is in groups[{seen[a]}] and groups[{k}]: every atom may be in one bead only")
            seen[a] = k
