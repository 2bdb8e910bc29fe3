"""``Frames``: a trajectory in canonical units, with its topology and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.system import System

if TYPE_CHECKING:
    import mdtraj


@dataclass(frozen=True, eq=False)
class Frames:
    """F snapshots of the same N particles.

    | field | shape | unit |
    |---|---|---|
    | positions | F N 3 | A |
    | topology | | mdtraj.Topology of atoms or beads |
    | forces | F N 3 | eV/A, optional |
    | energies | F | eV, optional |
    | cell | F 3 3 | A, None where not periodic |
    | time | F | fs |
    | masses | N | eV fs^2/A^2; default: those of the elements |
    | types | N | integer species; default: atomic numbers |
    | constraints | C 2 | pairs of atoms held at a fixed distance (their forces are missing from ``forces``) |
    | kT | | eV, optional |
    | provenance | | dict of text and numbers |
    """

    positions: Tensor
    topology: mdtraj.Topology
    forces: Tensor | None = None
    energies: Tensor | None = None
    cell: Tensor | None = None
    time: Tensor | None = None
    masses: Tensor | None = None
    types: Tensor | None = None
    constraints: Tensor | None = None
    kT: float | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        x = self.positions
        if x.ndim != 3 or x.shape[2] != 3:
            raise ValueError(f"positions has shape {tuple(x.shape)}, expected (frames, atoms, 3)")
        n_frames, n = x.shape[:2]
        if n != self.topology.n_atoms:
            raise ValueError(
                f"positions hold {n} atoms but topology has {self.topology.n_atoms}: they must describe the same atoms"
            )
        if not bool(torch.isfinite(x).all()):
            bad = int(torch.nonzero(~torch.isfinite(x).all(-1).all(-1))[0])
            raise ValueError(f"positions are not finite (first in frame {bad}): remove or repair that frame")
        expected = {"forces": (n_frames, n, 3), "energies": (n_frames,), "cell": (n_frames, 3, 3), "time": (n_frames,)}
        expected |= {"masses": (n,), "types": (n,)}
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is None:
                continue
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} contains values that are not finite: remove or repair those frames")
        pairs = self.constraints
        if pairs is not None and (pairs.ndim != 2 or pairs.shape[1] != 2 or (len(pairs) and int(pairs.max()) >= n)):
            raise ValueError(f"constraints has shape {tuple(pairs.shape)}: give pairs (C, 2) of atom indices below {n}")
        defaults: dict[str, Any] = {}
        if self.masses is None:
            mass = [a.element.mass if a.element is not None else 0.0 for a in self.topology.atoms]
            defaults["masses"] = torch.tensor(mass, dtype=torch.float64) * units.amu
        if self.types is None:
            defaults["types"] = torch.tensor([a.element.atomic_number if a.element is not None else 0 for a in self.topology.atoms])
        if self.time is None:
            defaults["time"] = torch.arange(n_frames, dtype=torch.float64)
        for name, value in defaults.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def n_atoms(self) -> int:
        return self.positions.shape[1]

    @property
    def periodic(self) -> bool:
        return self.cell is not None

    @property
    def bonds(self) -> list[tuple[int, int]]:
        """Bonded pairs of the topology, each once, i < j, sorted."""
        return sorted({(min(a.index, b.index), max(a.index, b.index)) for a, b in self.topology.bonds})

    def __getitem__(self, index: Any) -> Frames:
        """A slice, list or mask of frames; an integer gives one frame, still as ``Frames``."""
        index = [int(index)] if isinstance(index, (int, np.integer)) else index
        per_frame = ("positions", "forces", "energies", "cell", "time")
        return replace(self, **{k: v[index] for k in per_frame if (v := getattr(self, k)) is not None})

    def atoms(self, selection: str | Sequence[int]) -> Frames:
        """Only the atoms of an mdtraj selection ("protein", "resname LIG", "not water") or of a list of indices.

        Forces on them stay those of the whole system: the mean force in its surroundings, as coarse-graining wants it. Energies are
        dropped, since they belong to all atoms.

        Raises:
            ValueError: a selection that mdtraj does not understand, or that holds no atom.
        """
        try:
            index = self.topology.select(selection) if isinstance(selection, str) else np.asarray(selection, dtype=int)
        except Exception as error:  # mdtraj's parser raises errors of several packages
            reason = str(error).split("\n")[0].rstrip(": ")  # the parser goes on to print its source with a pointer below
            raise ValueError(
                f"selection={selection!r} is no mdtraj selection ({reason}): try 'protein' or 'resname ALA'"
            ) from error
        if not len(index):
            raise ValueError(f"selection={selection!r} holds no atom of the {self.n_atoms}")
        keep = torch.as_tensor(index)
        kept = {int(i): k for k, i in enumerate(index)}
        per_atom = {k: v[:, keep] for k in ("positions", "forces") if (v := getattr(self, k)) is not None}
        per_atom |= {k: v[keep] for k in ("masses", "types") if (v := getattr(self, k)) is not None}
        if self.constraints is not None:
            rows = [[kept[i], kept[j]] for i, j in self.constraints.tolist() if i in kept and j in kept]
            per_atom["constraints"] = torch.tensor(rows, dtype=torch.long).reshape(-1, 2)
        note = {
            **self.provenance,
            "atoms selected": f"{selection if isinstance(selection, str) else 'by index'}: {len(kept)} of {self.n_atoms}",
        }
        return replace(self, topology=self.topology.subset(index), energies=None, provenance=note, **per_atom)

    def enlarged(self, repeats: Sequence[int]) -> Frames:
        """The frames of a box (na, nb, nc) times as long along its lattice vectors: molecules whole, topology repeated.

        Positions, masses and types as :meth:`System.enlarged` lays them out; forces are the same on every image; energies are
        na nb nc times as large. The images move alike, so these frames hold no more statistics than the small box: they are a
        start for a simulation.

        Raises:
            ValueError: frames without a cell, or repeats that are not three whole numbers of at least 1.
        """
        if self.cell is None:
            raise ValueError("frames have no cell: only a periodic box can be enlarged")
        whole = self.system(slice(None)) if not self.bonds else self._whole().system(slice(None))
        large = whole.enlarged(repeats)
        images = large.positions.shape[0] // (len(self) * self.n_atoms)
        topology = self.topology
        for _ in range(images - 1):
            topology = topology.join(self.topology)
        pairs = self.constraints
        note = {**self.provenance, "enlarged": "x".join(str(k) for k in repeats)}
        return replace(
            self,
            positions=large.dense(),
            topology=topology,
            forces=None if self.forces is None else self.forces.repeat(1, images, 1),
            energies=None if self.energies is None else self.energies * images,
            cell=large.cell,
            masses=None if self.masses is None else self.masses.repeat(images),
            types=None if self.types is None else self.types.repeat(images),
            constraints=None if pairs is None else torch.cat([pairs + m * self.n_atoms for m in range(images)]),
            provenance=note,
        )

    def _whole(self) -> Frames:
        """Molecules joined along their bonds."""
        from mlmd.cell import make_whole

        assert self.cell is not None
        whole = make_whole(self.positions.double(), self.cell.double(), self.bonds)
        return replace(self, positions=whole.to(self.positions.dtype))

    def system(self, frame: int | slice = 0) -> System:
        """The given frame as a ``System``; a slice gives one system per frame."""
        frames = [frame] if isinstance(frame, int) else list(range(len(self)))[frame]
        assert self.types is not None and self.masses is not None
        parts = [
            System.single(self.positions[f], self.types, self.masses, None if self.cell is None else self.cell[f]) for f in frames
        ]
        return System.stack(parts)

    def to(self, device: torch.device | str) -> Frames:
        """The same frames with all tensors on another device."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]

    def to_mdtraj(self) -> mdtraj.Trajectory:
        """The same trajectory for mdtraj and nglview, in their units (nm, ps)."""
        import mdtraj

        assert self.time is not None
        out = mdtraj.Trajectory(
            self.positions.cpu().double().numpy() / units.nm, self.topology, time=self.time.cpu().numpy() / units.ps
        )
        if self.cell is not None:
            out.unitcell_vectors = self.cell.cpu().double().numpy() / units.nm
        return out

    def save(self, path: str | Path) -> Path:
        """Write a compressed ``.npz``; arrays and JSON only. Raises nothing halfway: the file is whole or absent."""
        from mlmd.store import write_npz

        arrays = {f.name: v.cpu().numpy() for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        meta = {
            "kind": "mlmd.Frames",
            "version": 1,
            "topology": topology_to_dict(self.topology),
            "kT": self.kT,
            "provenance": self.provenance,
        }
        return write_npz(path, arrays, meta)

    @staticmethod
    def load(path: str | Path) -> Frames:
        """Read what ``save`` wrote."""
        from mlmd.store import read_npz

        arrays, meta = read_npz(path, kind="mlmd.Frames")
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        return Frames(topology=topology_from_dict(meta["topology"]), kT=meta["kT"], provenance=meta["provenance"], **tensors)


def topology_to_dict(topology: mdtraj.Topology) -> dict:
    """Atoms, residues, chains and bonds as plain lists, for JSON."""
    atoms = [[a.name, a.element.symbol if a.element is not None else "VS", a.residue.index] for a in topology.atoms]
    residues = [[r.name, r.resSeq, r.chain.index] for r in topology.residues]
    return {"atoms": atoms, "residues": residues, "bonds": [[a.index, b.index] for a, b in topology.bonds]}


def topology_from_dict(data: dict) -> mdtraj.Topology:
    """Inverse of :func:`topology_to_dict`."""
    import mdtraj

    topology = mdtraj.Topology()
    chains = [topology.add_chain() for _ in range(1 + max((r[2] for r in data["residues"]), default=-1))]
    residues = [topology.add_residue(name, chains[chain], resSeq=seq) for name, seq, chain in data["residues"]]
    for name, symbol, residue in data["atoms"]:
        topology.add_atom(name, mdtraj.element.get_by_symbol(symbol), residues[residue])
    atoms = list(topology.atoms)
    for i, j in data["bonds"]:
        topology.add_bond(atoms[i], atoms[j])
    return topology


def bead_topology(names: list[str], bonds: list[tuple[int, int]], molecules: int = 1) -> mdtraj.Topology:
    """A topology of beads (virtual sites) that mdtraj and nglview accept, every molecule one residue.

    The residue is called ``CG``: a name that is not a standard residue makes PDB writers add CONECT records, without which
    viewers draw no bonds between beads.
    """
    import mdtraj

    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for m in range(molecules):
        residue = topology.add_residue("CG", chain, resSeq=m + 1)
        atoms = [topology.add_atom(name, mdtraj.element.virtual, residue) for name in names]
        for i, j in bonds:
            topology.add_bond(atoms[i], atoms[j])
    return topology


def as_numpy(x: Tensor | np.ndarray) -> np.ndarray:
    """Detached CPU array."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
