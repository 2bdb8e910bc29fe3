"""Small files for shipped liquids: the periodic form of :mod:`mlmd.io.packed`.

| array | type, shape | meaning |
|---|---|---|
| positions | uint8, 2 F N 3 | low and high bytes of 16-bit integers: grid points, see below |
| forces | uint8, 2 F N 3 | low and high bytes of 16-bit integers times ``force_step`` (eV/A) |
| energies | float32, F | plus ``energy_offset`` (eV) |
| cell | float64, F 3 3 | A |
| masses, types, constraints | as in ``Frames`` | |

Positions lie on a grid of ``position_step`` (A) about the middle of the cell. For the first atom of a molecule its grid point is stored, for every other atom the
difference from that of its parent along the bonds. Differences of grid points are exact, so the rounding of an atom does not grow along its molecule; bytes of one significance beside each other
compress better. Molecules are stored whole, with their first atoms in the cell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlmd.cell import make_whole, spanning_tree, wrap
from mlmd.frames import Frames, as_numpy, topology_from_dict, topology_to_dict
from mlmd.store import write_npz

VERSION = 2


def pack(frames: Frames, path: str | Path, kind: str, *, position_step: float, force_step: float) -> Path:
    """Write periodic frames rounded.

    Args:
        kind: of the file; position_step: A; force_step: eV/A.

    Raises:
        ValueError: without forces, energies or a cell, or if a value does not fit into 16 bits at that step.
    """
    if frames.forces is None or frames.energies is None or frames.cell is None:
        raise ValueError("frames: packed liquids hold positions, forces, energies and a cell; one of them is missing")
    assert frames.time is not None and frames.masses is not None and frames.types is not None
    tree = spanning_tree(frames.n_atoms, frames.bonds)
    grid = np.rint(as_numpy(whole_in_cell(frames) - centres(frames.cell)) / position_step).astype(np.int64)
    steps = grid.copy()
    if tree:
        parent, child = np.array(tree).T
        steps[:, child] -= grid[:, parent]
    offset = float(frames.energies.double().mean())
    rigid = torch.empty(0, 2, dtype=torch.long) if frames.constraints is None else frames.constraints
    arrays = {
        "positions": _planes(steps, position_step, "position_step"),
        "forces": _planes(np.rint(as_numpy(frames.forces.double()) / force_step), force_step, "force_step"),
        "energies": as_numpy(frames.energies.double() - offset).astype(np.float32),
        "cell": as_numpy(frames.cell.double()),
        "masses": as_numpy(frames.masses),
        "types": as_numpy(frames.types),
        "constraints": as_numpy(rigid),
    }
    between = float(frames.time[1] - frames.time[0]) if len(frames) > 1 else 0.0
    meta = {
        "kind": kind, "version": VERSION, "position_step": position_step, "force_step": force_step, "energy_offset": offset,
        "time_step": between, "kT": frames.kT, "topology": topology_to_dict(frames.topology), "provenance": frames.provenance,
    }  # fmt: skip
    return write_npz(path, arrays, meta)


def unpack(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> Frames:
    """Frames from what :func:`pack` wrote: positions and forces in float32, energies in float64."""
    topology = topology_from_dict(meta["topology"])
    grid = _joined(arrays["positions"])
    for parent, child in spanning_tree(topology.n_atoms, [(a.index, b.index) for a, b in topology.bonds]):
        grid[:, child] += grid[:, parent]
    rigid, cell = torch.from_numpy(arrays["constraints"]), torch.from_numpy(arrays["cell"])
    return Frames(
        positions=(torch.from_numpy(grid * meta["position_step"]) + centres(cell)).float(),
        topology=topology,
        forces=torch.from_numpy(_joined(arrays["forces"]) * meta["force_step"]).float(),
        energies=torch.from_numpy(arrays["energies"].astype(np.float64)) + meta["energy_offset"],
        cell=cell,
        time=torch.arange(len(grid), dtype=torch.float64) * meta["time_step"],
        masses=torch.from_numpy(arrays["masses"]),
        types=torch.from_numpy(arrays["types"]),
        constraints=rigid if len(rigid) else None,
        kT=meta["kT"],
        provenance=meta["provenance"],
    )


def centres(cell: torch.Tensor) -> torch.Tensor:
    """Middle of every cell, (F, 1, 3) in A in float64."""
    return cell.double().sum(1, keepdim=True) / 2


def whole_in_cell(frames: Frames) -> torch.Tensor:
    """Positions (F, N, 3) in A in float64, molecules in one piece with their first atoms in the cell."""
    assert frames.cell is not None
    cell, tree = frames.cell.double(), spanning_tree(frames.n_atoms, frames.bonds)
    x = make_whole(frames.positions.double(), cell, frames.bonds)
    root = torch.arange(frames.n_atoms)
    for parent, child in tree:
        root[child] = root[parent]
    return x + (wrap(x, cell) - x)[:, root]


def _planes(values: np.ndarray, step: float, argument: str) -> np.ndarray:
    largest = float(np.abs(values).max())
    if largest > 32767:
        raise ValueError(f"{argument}={step:g} is too fine for 16 bits: take at least {step * largest / 32767:.2g}")
    return np.ascontiguousarray(np.moveaxis(values.astype("<i2")[..., None].view(np.uint8), -1, 0))


def _joined(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view("<i2")[..., 0].astype(np.int64)
