"""Small files for shipped trajectories: coordinates and forces as 16-bit integers times a stated step, in one verified ``.npz``.

| array | type, shape | meaning |
|---|---|---|
| positions | int16, F N 3 | times ``position_step`` (A), centroid of every frame at the origin before rounding |
| forces | int16, F N 3 | times ``force_step`` (eV/A) |
| energies | float32, F | plus ``energy_offset`` (eV) |

The metadata hold the steps, the time between frames (fs), kT (eV), the topology and the provenance. Masses and types are those
of the elements.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mlmd.errors import BrokenCheckpoint
from mlmd.frames import Frames, as_numpy, topology_from_dict, topology_to_dict
from mlmd.io import packed_liquid
from mlmd.store import read_npz, write_npz

KIND = "mlmd.dataset"


def pack(frames: Frames, path: str | Path, *, position_step: float = 2.5e-4, force_step: float = 5e-4) -> Path:
    """Write ``frames`` rounded; energies and forces must be there. Periodic frames are written as :mod:`mlmd.io.packed_liquid` says.

    Args:
        position_step: A; force_step: eV/A.

    Raises:
        ValueError: if something is missing or a value does not fit into 16 bits at that step.
    """
    if frames.cell is not None:
        return packed_liquid.pack(frames, path, KIND, position_step=position_step, force_step=force_step)
    if frames.forces is None or frames.energies is None:
        raise ValueError("frames: packed files hold positions, forces and energies; one of them is missing")
    x = frames.positions.double()
    offset = float(frames.energies.double().mean())
    arrays = {
        "positions": _quantise(as_numpy(x - x.mean(1, keepdim=True)), position_step, "position_step"),
        "forces": _quantise(as_numpy(frames.forces.double()), force_step, "force_step"),
        "energies": as_numpy(frames.energies.double() - offset).astype(np.float32),
    }
    assert frames.time is not None
    between = float(frames.time[1] - frames.time[0]) if len(frames) > 1 else 0.0
    meta = {
        "kind": KIND, "version": 1, "position_step": position_step, "force_step": force_step, "energy_offset": offset,
        "time_step": between, "kT": frames.kT, "topology": topology_to_dict(frames.topology), "provenance": frames.provenance,
    }  # fmt: skip
    return write_npz(path, arrays, meta)


def unpack(path: str | Path) -> Frames:
    """Read what :func:`pack` wrote: positions and forces in float32, energies in float64."""
    arrays, meta = read_npz(path, kind=KIND)
    if meta["version"] == packed_liquid.VERSION:
        return packed_liquid.unpack(arrays, meta)
    positions = torch.from_numpy(arrays["positions"].astype(np.float64) * meta["position_step"]).float()
    return Frames(
        positions=positions,
        topology=topology_from_dict(meta["topology"]),
        forces=torch.from_numpy(arrays["forces"].astype(np.float64) * meta["force_step"]).float(),
        energies=torch.from_numpy(arrays["energies"].astype(np.float64)) + meta["energy_offset"],
        time=torch.arange(len(positions), dtype=torch.float64) * meta["time_step"],
        kT=meta["kT"],
        provenance=meta["provenance"],
    )


def load_any(path: str | Path) -> Frames:
    """Frames from a file of this package, packed or whole.

    Raises:
        BrokenCheckpoint: if it is neither, truncated or altered.
    """
    try:
        return unpack(path)
    except BrokenCheckpoint:
        return Frames.load(path)


def _quantise(values: np.ndarray, step: float, argument: str) -> np.ndarray:
    n = np.rint(values / step)
    if np.abs(n).max() > 32767:
        raise ValueError(f"{argument}={step:g} is too fine: the largest value {np.abs(values).max():.4g} needs {argument} "
                         f">= {np.abs(values).max() / 32767:.2g}")  # fmt: skip
    return n.astype("<i2")
