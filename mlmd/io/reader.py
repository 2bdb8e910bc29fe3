"""``read``: any trajectory in, ``Frames`` in internal units out, checked."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from mlmd import units
from mlmd.frames import Frames
from mlmd.io import checks
from mlmd.io.bonds import atomic_numbers, guess_bonds, unbonded
from mlmd.io.formats import (
    FORCE_KEYS,
    POSITION_KEYS,
    Arrays,
    Units,
    door,
    exists,
    from_mdtraj,
    load_arrays,
    pick,
    read_topology,
    same_atoms,
    scaled,
    shaped_forces,
    unlabelled,
)
from mlmd.io.packed import load_any
from mlmd.io.unit_names import TABLES, nearest, worth

if TYPE_CHECKING:
    import mdtraj

PathLike: TypeAlias = str | os.PathLike[str]


def read(
    top: PathLike | mdtraj.Topology | None = None,
    traj: PathLike | np.ndarray | mdtraj.Trajectory | None = None,
    forces: PathLike | np.ndarray | None = None,
    *,
    temperature: float | None = None,
    stride: int = 1,
    length_unit: str | None = None,
    force_unit: str | None = None,
    energy_unit: str | None = None,
    constraints: str | np.ndarray | None = None,
    periodic: bool | None = None,
    min_frames: int = 1,
    check: bool = True,
) -> Frames:
    """Read a trajectory, with forces if there are any, and check it.

    | what | how |
    |---|---|
    | PDB, GRO, ... + XTC, DCD, TRR, ... | ``read("a.pdb", "a.xtc")``; forces in a TRR are read (extra ``formats``) |
    | forces in a file of their own | ``read("a.pdb", "a.xtc", "f.npy", force_unit="kcal/mol/A")`` |
    | arrays | ``read("a.pdb", "x.npy", "f.npy", length_unit="A", force_unit="kcal/mol/A")`` |
    | .npz of this package | ``read("a.npz")`` |
    | other .npz (R, z, F, E, ...) | ``read("a.npz", length_unit="A", force_unit="eV/A", energy_unit="eV")`` |
    | extended XYZ | ``read("a.xyz")`` (A, eV; extra ``formats``) |

    Args:
        top: topology file or ``mdtraj.Topology``; or the only file, if it holds everything.
        traj: trajectory file, positions (frames, atoms, 3), or an ``mdtraj.Trajectory``.
        forces: forces in a file or array of their own, in the shape of the positions.
        temperature: K; without it forces can be checked only roughly.
        stride: keep every stride-th frame.
        length_unit, force_unit, energy_unit: one of :mod:`mlmd.io.unit_names`. Needed for numbers without a label (.npy, .npz);
            for other files they replace what the format prescribes.
        constraints: bonds that were held rigid: None, "detect" (from constant bond lengths), "h-bonds", or pairs (C, 2).
        periodic: None: as the file says; False: ignore its box; True: insist on one.
        min_frames: fewer frames are refused.
        check: run the checks of :mod:`mlmd.io.checks`, whose doubts are warnings.

    Raises:
        FileNotFoundError, ValueError: naming file or argument, the value and the mend.
        MissingExtra: for TRR and extended XYZ without the extra ``formats``.
    """
    said = _units(length_unit, force_unit, energy_unit)
    if stride < 1:
        raise ValueError(f"stride={stride}: must be at least 1")
    if traj is None and _is_path(top) and Path(top).suffix == ".npz" and _is_ours(Path(top)):  # type: ignore[arg-type]
        frames, source = _ours(Path(top), stride, said), checks.Source(str(top))  # type: ignore[arg-type]
    else:
        frames, source = _foreign(top, traj, forces, stride, said, temperature, periodic)
    if temperature is not None:
        frames = replace(frames, kT=_kT(temperature))
    if periodic is False:
        frames = replace(frames, cell=None)
    frames = replace(frames, constraints=_constraints(constraints, frames))
    checks.require_frames(frames, min_frames, "min_frames")
    if check:
        checks.warn(checks.audit(frames, source))
    return frames


def _units(length: str | None, force: str | None, energy: str | None) -> Units:
    for argument, name in (("length_unit", length), ("force_unit", force), ("energy_unit", energy)):
        if name is not None:
            worth(argument, name)
    return Units(length, force, energy)


def _kT(temperature: float) -> float:
    if not 0 < temperature < 1e5:
        raise ValueError(f"temperature={temperature}: give kelvin, above zero")
    return temperature * units.kelvin


def _is_path(x: Any) -> bool:
    return isinstance(x, (str, os.PathLike))


def _is_ours(path: Path) -> bool:
    try:
        with np.load(exists(path), allow_pickle=False) as z:
            return "__meta__" in z.files
    except (OSError, ValueError, EOFError):
        return False  # whoever reads it next says what is wrong
    except Exception:  # a damaged zip raises almost anything
        return False


def _ours(path: Path, stride: int, said: Units) -> Frames:
    if any((said.length, said.force, said.energy)):
        raise ValueError(
            f"{path} was written by this package and carries its units: leave length_unit, force_unit and energy_unit out"
        )
    return load_any(path)[::stride]


def _foreign(
    top: Any, traj: Any, forces: Any, stride: int, said: Units, temperature: float | None, periodic: bool | None
) -> tuple[Frames, checks.Source]:
    topology, name = _topology(top, traj), str(traj if _is_path(traj) else top if traj is None else "traj")
    arrays = _arrays(top, traj, topology, stride, said)
    topology = topology if topology is not None else arrays.topology
    if topology is None:
        raise ValueError(f"top is missing: {name} holds no atoms' names; give a PDB, GRO or other topology")
    same_atoms(Path(name), arrays.positions.shape[1], topology)
    if forces is not None:
        arrays = _with_forces(arrays, forces, stride, said, topology, temperature)
    for what, values in (("positions", arrays.positions), ("forces", arrays.forces), ("energies", arrays.energies)):
        if values is not None:
            checks.finite(name, what, values)
    if periodic and arrays.cell is None:
        raise ValueError(f"periodic=True, but {name} holds no box (or one of zeros): give a trajectory with a box")
    cell = arrays.cell if periodic is not False else None
    frames = Frames(
        positions=torch.from_numpy(arrays.positions),
        topology=topology,
        forces=_tensor(arrays.forces),
        energies=_tensor(arrays.energies),
        cell=_tensor(cell),
        time=_tensor(arrays.time),
        kT=None if temperature is None else _kT(temperature),
        provenance={"files": [str(x) for x in (top, traj, forces) if _is_path(x)], "units read": arrays.taken_as, "stride": stride},
    )
    source = checks.Source(name, arrays.taken_as)
    checks.warn([checks.Finding("warning", n) for n in arrays.notes], stacklevel=4)
    checks.check_box(frames, source)
    return _bonded(frames, source), source


def _tensor(a: np.ndarray | None) -> torch.Tensor | None:
    return None if a is None else torch.from_numpy(np.ascontiguousarray(a))


def _topology(top: Any, traj: Any) -> mdtraj.Topology | None:
    if top is None and traj is None:
        raise ValueError("top and traj are both missing: give at least one file")
    if top is None or not _is_path(top):
        return top
    return read_topology(Path(top)) if traj is not None else None


def _arrays(top: Any, traj: Any, topology: mdtraj.Topology | None, stride: int, said: Units) -> Arrays:
    source = traj if traj is not None else top
    if not _is_path(source):
        if hasattr(source, "unitcell_vectors"):
            return from_mdtraj(source[::stride], said.length or "nm")
        content = {"positions": np.asarray(source)}
        _labelled("traj", content, topology, said)
        return unlabelled("traj", content["positions"], content, stride, said)
    path = Path(source)
    if path.suffix.lower() in (".npy", ".npz"):
        _labelled(str(path), load_arrays(path), topology, said)
    return door(path)(path, topology, stride, said)


def _labelled(name: str, content: dict[str, np.ndarray], topology: mdtraj.Topology | None, said: Units) -> None:
    """Numbers without a unit need one from the person; a guess is offered, never taken."""
    if said.length is None and (x := pick(content, POSITION_KEYS)) is not None:
        raise ValueError(
            f"{name} does not say in which unit its positions are: pass length_unit ({', '.join(TABLES['length_unit'])})"
            + _guess_length(x, topology)
        )
    for argument, kind, value in (
        ("force_unit", FORCE_KEYS, said.force),
        ("energy_unit", ("energies", "energy", "E", "U"), said.energy),
    ):
        if value is None and pick(content, kind) is not None:
            what = argument.removesuffix("_unit")
            raise ValueError(f"{name} does not say in which unit its {what} is: pass {argument} ({', '.join(TABLES[argument])})")


def _guess_length(x: np.ndarray, topology: mdtraj.Topology | None) -> str:
    if topology is None or x.ndim != 3 or x.shape[1:] != (topology.n_atoms, 3) or not np.isfinite(x[:1]).all():
        return ""
    ratio = checks.length_ratio(Frames(torch.from_numpy(np.asarray(x[:1], dtype=np.float64)), topology))
    unit = nearest("length_unit", 1 / ratio) if ratio else None
    return f"; bonded distances suggest {unit!r}" if unit else ""


def _with_forces(
    arrays: Arrays, forces: Any, stride: int, said: Units, topology: mdtraj.Topology, temperature: float | None
) -> Arrays:
    name = str(forces) if _is_path(forces) else "forces"
    if _is_path(forces):
        content = load_arrays(Path(forces))
        f = pick(content, (*FORCE_KEYS, "positions")) if Path(forces).suffix == ".npy" else pick(content, FORCE_KEYS)
        if f is None:
            raise ValueError(f"{name} holds {sorted(content)} but no forces: name that array one of {', '.join(FORCE_KEYS)}")
    else:
        f = np.asarray(forces)
    if said.force is None:
        raise ValueError(f"{name} does not say in which unit its forces are: pass force_unit ({', '.join(TABLES['force_unit'])})")
    f = shaped_forces(name, f[::stride], arrays.positions.shape)
    return replace(
        arrays, forces=scaled(f, worth("force_unit", said.force)), taken_as={**arrays.taken_as, "force_unit": said.force}
    )


def _bonded(frames: Frames, source: checks.Source) -> Frames:
    """Add bonds from distances to molecules of which the topology names none, if lengths make sense."""
    bare = unbonded(frames.topology)
    if not bare or checks.is_slipped(checks.check_lengths(frames, source)):
        return frames
    topology, numbers = frames.topology.copy(), atomic_numbers(frames.topology)
    atoms = list(topology.atoms)
    cell = None if frames.cell is None else frames.cell[0]
    for i, j in guess_bonds(frames.positions[0, bare], [numbers[k] for k in bare], cell):
        topology.add_bond(atoms[bare[i]], atoms[bare[j]])
    note = f"from distances in the first frame, for {len(bare)} atoms"
    return replace(frames, topology=topology, provenance={**frames.provenance, "bonds": note})


def _constraints(constraints: Any, frames: Frames) -> torch.Tensor | None:
    if constraints is None:
        return frames.constraints
    if isinstance(constraints, str):
        if constraints == "detect":
            pairs = checks.rigid_bonds(frames)
        elif constraints == "h-bonds":
            z = atomic_numbers(frames.topology)
            pairs = [(i, j) for i, j in frames.bonds if 1 in (z[i], z[j])]
        else:
            raise ValueError(f'constraints={constraints!r}: use "detect", "h-bonds" or an array of pairs (C, 2)')
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    pairs_ = torch.as_tensor(np.asarray(constraints)).long()
    if (
        pairs_.ndim != 2
        or pairs_.shape[1] != 2
        or (len(pairs_) and not 0 <= int(pairs_.min()) <= int(pairs_.max()) < frames.n_atoms)
    ):
        raise ValueError(
            f"constraints has shape {tuple(pairs_.shape)}: give pairs (C, 2) of atoms between 0 and {frames.n_atoms - 1}"
        )
    return pairs_
