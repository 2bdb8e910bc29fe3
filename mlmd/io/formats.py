"""One function a file format: numbers in the file's own unit in, arrays in internal units out. Nothing else converts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlmd import units
from mlmd.errors import require
from mlmd.io.unit_names import worth

if TYPE_CHECKING:
    import mdtraj

POSITION_KEYS = ("positions", "coordinates", "coords", "coord", "R", "xyz", "pos", "x")
FORCE_KEYS = ("forces", "force", "F", "f")
ENERGY_KEYS = ("energies", "energy", "E", "U")
IN_ANGSTROM = (
    ".dcd", ".pdb", ".ent", ".cif", ".nc", ".ncdf", ".netcdf", ".mdcrd", ".crd", ".rst7", ".ncrst", ".lammpstrj", ".arc"
)  # fmt: skip
CELL_KEYS = ("cell", "box", "lattice", "unitcell_vectors")
NUMBER_KEYS = ("z", "Z", "numbers", "atomic_numbers", "nuclear_charges", "species")


@dataclass(frozen=True)
class Units:
    """What the person said about units; None: as the format prescribes, or nothing for a format that prescribes none."""

    length: str | None = None
    force: str | None = None
    energy: str | None = None


@dataclass(frozen=True)
class Arrays:
    """What a file held, in A, fs, eV. ``taken_as`` names the unit in which each kind of number was read."""

    positions: np.ndarray
    forces: np.ndarray | None = None
    energies: np.ndarray | None = None
    cell: np.ndarray | None = None
    time: np.ndarray | None = None
    topology: mdtraj.Topology | None = None
    taken_as: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def unreadable(
    path: Path, error: Exception, mend: str = "is it complete, and does its name end as its format demands?"
) -> ValueError:
    """A ``ValueError`` that names the file and keeps the reader's own message."""
    return ValueError(f"{path} cannot be read ({type(error).__name__}: {error}): {mend}")


def scaled(values: np.ndarray | None, factor: float) -> np.ndarray | None:
    """``values * factor`` in double precision, handed back in the precision of the file."""
    if values is None:
        return None
    a = np.asarray(values)
    kind = a.dtype if a.dtype in (np.float32, np.float64) else np.float64
    return (a.astype(np.float64) * factor).astype(kind)


def read_topology(path: Path) -> mdtraj.Topology:
    """Atoms, residues and bonds of any file that mdtraj knows as a topology.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    import mdtraj

    exists(path)
    try:
        return mdtraj.load_topology(str(path))
    except Exception as error:
        raise unreadable(path, error) from error


def exists(path: Path) -> Path:
    """The path, if a file is there."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    return path


def from_mdtraj(trajectory: mdtraj.Trajectory, length_unit: str = "nm") -> Arrays:
    """An mdtraj trajectory (nm, ps); another ``length_unit`` says that its numbers are in truth in that unit."""
    factor = worth("length_unit", length_unit)
    cell = trajectory.unitcell_vectors
    if cell is not None:
        cell = np.nan_to_num(cell)  # what mdtraj makes of lengths or angles of zero
    if cell is not None and not np.any(cell):
        cell = None  # the file formats write a box of zeros where there is none
    return Arrays(
        positions=np.asarray(scaled(trajectory.xyz, factor)),
        cell=scaled(cell, factor),
        time=np.asarray(trajectory.time, dtype=np.float64) * units.ps,
        topology=trajectory.topology,
        taken_as={"length_unit": length_unit},
    )


def mdtraj_file(path: Path, topology: mdtraj.Topology | None, stride: int, said: Units) -> Arrays:
    """XTC, DCD, NetCDF, HDF5, PDB, GRO and whatever else mdtraj reads: positions, box and time."""
    import mdtraj

    exists(path)
    stores_topology = path.suffix.lower() in (".pdb", ".gro", ".h5", ".cif", ".pdbx", ".ent")
    if topology is not None and not stores_topology:
        same_atoms(path, _atoms_in_first_frame(mdtraj, path), topology)
    elif topology is None and not stores_topology:
        raise ValueError(f"top is missing: {path} holds no atoms' names; give a PDB, GRO or other topology")
    try:
        t = mdtraj.load(str(path), stride=stride, **({} if stores_topology else {"top": topology}))
    except Exception as error:
        raise unreadable(path, error) from error
    if topology is not None:
        same_atoms(path, t.n_atoms, topology)
    native = "A" if path.suffix.lower() in IN_ANGSTROM else "nm"
    return replace(_relabel(from_mdtraj(t), native, said.length), notes=_dcd_cut_short(path))


def _dcd_cut_short(path: Path) -> tuple[str, ...]:
    """A note if the header of a DCD announces more frames than the file has room for; mdtraj reads those that are there."""
    if path.suffix.lower() != ".dcd":
        return ()
    import mdtraj

    with mdtraj.open(str(path)) as f:
        present = len(f)
    with path.open("rb") as f:
        head = f.read(12)
    announced = int.from_bytes(head[8:12], "little" if head[:4] == (84).to_bytes(4, "little") else "big")
    if announced <= present:
        return ()
    return (
        f"{path} announces {announced} frames and holds {present}: was it copied in part, or is it still being written? "
        f"The {present} are used",
    )


def _relabel(arrays: Arrays, native: str, length: str | None) -> Arrays:
    """mdtraj converted from the format's unit; where the person names another one, undo that and apply theirs."""
    unit = length or native
    factor = worth("length_unit", unit) / worth("length_unit", native)
    positions, cell = arrays.positions, arrays.cell
    if factor != 1:
        positions, cell = np.asarray(scaled(positions, factor)), scaled(cell, factor)
    return replace(arrays, positions=positions, cell=cell, taken_as={**arrays.taken_as, "length_unit": unit})


def _atoms_in_first_frame(mdtraj: Any, path: Path) -> int:
    try:
        with mdtraj.open(str(path)) as f:
            first = f.read(n_frames=1)
        return (first[0] if isinstance(first, tuple) else first).shape[1]
    except Exception as error:
        raise unreadable(path, error) from error


def same_atoms(path: Path, found: int, topology: mdtraj.Topology) -> None:
    """Refuse a trajectory that does not fit its topology."""
    if found != topology.n_atoms:
        raise ValueError(
            f"{path} holds {found} atoms but top has {topology.n_atoms}: give the topology of exactly the atoms in the trajectory "
            "(for instance the PDB or GRO written with the same selection)"
        )


def trr_file(path: Path, topology: mdtraj.Topology | None, stride: int, said: Units) -> Arrays:
    """TRR with positions and forces (nm, kJ/mol/nm, ps), by MDAnalysis' binding to the XDR library; keeps frames that have both."""
    exists(path)
    xdr = require("MDAnalysis.lib.formats.libmdaxdr", extra="formats")
    try:
        with xdr.TRRFile(str(path)) as f:
            frames = [(g.x, g.f if g.hasf else None, g.box, g.time) for g in f if g.hasx]
            starts = [int(k) for k in f.offsets]
    except Exception as error:
        raise unreadable(path, error) from error
    if not frames:
        raise ValueError(f"{path} holds no frame with positions: write them (nstxout in GROMACS)")
    with_forces = [g for g in frames if g[1] is not None]
    notes: tuple[str, ...] = ()
    if with_forces and len(with_forces) < len(frames):
        notes = (f"{path}: only {len(with_forces)} of {len(frames)} frames have forces; the others are left out",)
    sizes = set(np.diff(starts).tolist())
    if sizes and path.stat().st_size - starts[-1] not in sizes:
        notes += (
            f"{path}: bytes are left after the last whole frame ({len(starts)} frames are used): was it copied in part, or is it still "
            "being written?",
        )
    x, f, box, time = zip(*(with_forces or frames)[::stride], strict=True)
    length, force = said.length or "nm", said.force or "kJ/mol/nm"
    return Arrays(
        positions=np.asarray(scaled(np.stack(x), worth("length_unit", length))),
        forces=scaled(np.stack(f), worth("force_unit", force)) if with_forces else None,
        cell=scaled(np.stack(box), worth("length_unit", length)) if np.any(box) else None,
        time=np.array(time, dtype=np.float64) * units.ps,
        taken_as={"length_unit": length, "force_unit": force},
        notes=notes,
    )


def extended_xyz(path: Path, topology: mdtraj.Topology | None, stride: int, said: Units) -> Arrays:
    """Extended XYZ by ASE, whose convention is A, eV, eV/A; the topology comes from the elements if none is given."""
    exists(path)
    ase_io = require("ase.io", extra="formats")
    try:
        images = ase_io.read(str(path), index=f"::{stride}", format="extxyz")
    except Exception as error:
        raise unreadable(path, error) from error
    if not images:
        raise ValueError(f"{path} holds no frame")
    first = images[0].numbers
    for k, a in enumerate(images):
        if not np.array_equal(a.numbers, first):
            raise ValueError(f"{path}: frame {k * stride} has other atoms than frame 0: give one molecule or box a file")
    length, force, energy = said.length or "A", said.force or "eV/A", said.energy or "eV"
    forces = [_ase_forces(a) for a in images]
    energies = [_ase_energy(a) for a in images]
    periodic = [bool(a.pbc.any()) for a in images]
    return Arrays(
        positions=np.asarray(scaled(np.stack([a.positions for a in images]), worth("length_unit", length))),
        forces=scaled(_all_or_none(path, forces, "forces"), worth("force_unit", force)),
        energies=scaled(_all_or_none(path, energies, "an energy"), worth("energy_unit", energy)),
        cell=scaled(np.stack([np.array(a.cell) for a in images]), worth("length_unit", length)) if any(periodic) else None,
        topology=topology_of(first),
        taken_as={"length_unit": length, "force_unit": force, "energy_unit": energy},
    )


def _ase_forces(atoms: Any) -> np.ndarray | None:
    stored = {**atoms.arrays, **(atoms.calc.results if atoms.calc is not None else {})}
    return next((np.asarray(stored[k]) for k in ("forces", "force", "REF_forces", "ref_forces") if k in stored), None)


def _ase_energy(atoms: Any) -> float | None:
    stored = {**atoms.info, **(atoms.calc.results if atoms.calc is not None else {})}
    return next((float(stored[k]) for k in ("energy", "REF_energy", "ref_energy", "free_energy") if k in stored), None)


def _all_or_none(path: Path, values: list, what: str) -> np.ndarray | None:
    missing = [k for k, v in enumerate(values) if v is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(values)} frames have no {what} (first: frame {missing[0]}): complete or remove them"
        )
    return np.stack([np.asarray(v) for v in values])


def topology_of(numbers: np.ndarray) -> mdtraj.Topology:
    """One residue of the given elements, without bonds."""
    import mdtraj

    out = mdtraj.Topology()
    residue = out.add_residue("MOL", out.add_chain(), resSeq=1)
    for i, z in enumerate(np.asarray(numbers).astype(int)):
        element = mdtraj.element.Element.getByAtomicNumber(int(z))
        out.add_atom(f"{element.symbol}{i + 1}", element, residue)
    return out


def array_file(path: Path, topology: mdtraj.Topology | None, stride: int, said: Units) -> Arrays:
    """``.npy`` of positions, or ``.npz`` with positions and perhaps forces, energies, cell and atomic numbers, all unlabelled."""
    content = load_arrays(path)
    x = pick(content, POSITION_KEYS)
    if x is None:
        raise ValueError(f"{path} holds {sorted(content)} but no positions: name that array one of {', '.join(POSITION_KEYS)}")
    return unlabelled(str(path), x, content, stride, said)


def unlabelled(name: str, x: np.ndarray, content: dict[str, np.ndarray], stride: int, said: Units) -> Arrays:
    """Arrays without a unit of their own; the caller has made sure that ``said`` names the units."""
    if x.ndim != 3 or x.shape[2] != 3:
        raise ValueError(f"{name}: positions have shape {x.shape}, expected (frames, atoms, 3): reshape the array")
    f, e, cell, z = (pick(content, k) for k in (FORCE_KEYS, ENERGY_KEYS, CELL_KEYS, NUMBER_KEYS))
    length = worth("length_unit", said.length or "A")
    if e is not None and (e := np.asarray(e).reshape(-1)).shape != (len(x),):
        raise ValueError(f"{name}: energies have shape {e.shape}, expected ({len(x)},): one a frame")
    return Arrays(
        positions=np.asarray(scaled(x[::stride], length)),
        forces=None if f is None else scaled(shaped_forces(name, f, x.shape)[::stride], worth("force_unit", said.force or "eV/A")),
        energies=None if e is None else scaled(e[::stride], worth("energy_unit", said.energy or "eV")),
        cell=None if cell is None else scaled(_shaped_cell(name, cell, len(x))[::stride], length),
        topology=None if z is None else topology_of(z if np.ndim(z) == 1 else z[0]),
        taken_as={
            k: v for k, v in (("length_unit", said.length), ("force_unit", said.force), ("energy_unit", said.energy)) if v
        },
    )  # fmt: skip


def shaped_forces(name: str, forces: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``forces`` if they have the shape of the positions."""
    if forces.shape != shape:
        raise ValueError(
            f"{name}: forces have shape {forces.shape}, but the positions have {shape}: give one vector for every atom of every frame"
        )
    return forces


def _shaped_cell(name: str, cell: np.ndarray, n_frames: int) -> np.ndarray:
    cell = np.asarray(cell, dtype=np.float64)
    if cell.shape == (n_frames, 3) or cell.shape == (3,):
        cell = np.einsum("...i,ij->...ij", cell, np.eye(3))
    if cell.shape == (3, 3):
        cell = np.broadcast_to(cell, (n_frames, 3, 3)).copy()
    if cell.shape != (n_frames, 3, 3):
        raise ValueError(f"{name}: the cell has shape {cell.shape}, expected (frames, 3, 3) with lattice vectors as rows")
    return cell


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npy`` (under the name ``positions``) or ``.npz``; objects are refused.

    Raises:
        FileNotFoundError, ValueError: naming the file.
    """
    exists(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"positions": loaded}
        with loaded:
            return {k: loaded[k] for k in loaded.files if not k.startswith("__")}
    except Exception as error:
        raise unreadable(path, error, "it must be a complete .npy or .npz with plain numbers (no Python objects)") from error


def pick(content: dict[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    """The first array present under one of ``keys``."""
    return next((content[k] for k in keys if k in content), None)


Door = Callable[[Path, "mdtraj.Topology | None", int, Units], Arrays]
DOORS: dict[str, Door] = {".trr": trr_file, ".xyz": extended_xyz, ".extxyz": extended_xyz, ".npy": array_file, ".npz": array_file}


def door(path: Path) -> Door:
    """The function that reads files of this name; mdtraj for all that have none of their own."""
    return DOORS.get(path.suffix.lower(), mdtraj_file)
