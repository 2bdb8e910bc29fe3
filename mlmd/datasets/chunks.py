"""Long runs as numbered files: each is whole or absent, holds the exact state at its end, and the next one starts from there.

``chunk_00000.npz``, ...: positions (frames, n, 3) in nm with the centroid at the origin, forces in kJ/mol/nm, energies in kJ/mol, for periodic
systems ``cell`` (frames, 3, 3) in nm, and ``state``, positions and velocities in float64 in the sampler's own units. ``settings.json`` tells how the run was made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlmd.store import write_atomic


def open_run(folder: str | Path, settings: dict[str, Any]) -> Path:
    """Make the folder, or find a run with the same settings in it.

    Raises:
        ValueError: if a run with other settings is there.
    """
    folder = Path(folder)
    path = folder / "settings.json"
    if path.exists():
        stored = json.loads(path.read_text())
        if stored != settings:
            raise ValueError(f"{path} was written with other settings ({stored}): choose another folder or remove it")
    else:
        write_atomic(path, lambda p: Path(p).write_text(json.dumps(settings, indent=1)))
    return folder


def resume(folder: Path, start: np.ndarray) -> tuple[np.ndarray, int]:
    """State at the end of the last chunk (or ``start``), and the number of chunks on disk."""
    stored = sorted(folder.glob("chunk_*.npz"))
    if not stored:
        return start, 0
    with np.load(stored[-1]) as chunk:
        return chunk["state"], len(stored)


def write_chunk(
    folder: Path, number: int, positions: np.ndarray, forces: np.ndarray, energies: np.ndarray, state: np.ndarray, **more: Any
) -> None:
    """Write one chunk; positions lose their centroid, so that single precision suffices however far the molecule has drifted."""
    arrays = dict(
        positions=(positions - positions.mean(1, keepdims=True)).astype(np.float32),
        forces=forces.astype(np.float32),
        energies=energies,
        state=state,
        **{k: np.array(v) for k, v in more.items()},
    )
    write_atomic(folder / f"chunk_{number:05d}.npz", lambda path: np.savez(path, **arrays))


def read_chunks(folder: str | Path) -> dict[str, np.ndarray]:
    """All frames of a run: positions (nm), forces (kJ/mol/nm), energies (kJ/mol), and, if any, cell (nm) and mean exchange acceptance.

    Raises:
        ValueError: if there is no chunk.
    """
    paths = sorted(Path(folder).glob("chunk_*.npz"))
    if not paths:
        raise ValueError(f"folder={str(folder)!r} holds no chunk_*.npz: generate the data first")
    parts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        with np.load(path) as chunk:
            for key in ("positions", "forces", "energies", "cell", "acceptance"):
                if key in chunk:
                    parts.setdefault(key, []).append(chunk[key])
    out: dict[str, np.ndarray] = {k: np.concatenate(v) for k, v in parts.items() if k != "acceptance"}
    if "acceptance" in parts:
        out["acceptance"] = np.mean(parts["acceptance"])
    return out
