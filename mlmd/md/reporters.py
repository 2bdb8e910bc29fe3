"""Reporters: what is kept of a simulation while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.md.state import State
from mlmd.store import read_npz, write_npz


class Recorder:
    """Keeps positions in memory; ``positions()`` is (snapshots, systems, n, 3)."""

    def __init__(self, every: int):
        self.every = every
        self.snapshots: list[Tensor] = []

    def __call__(self, state: State) -> None:
        self.snapshots.append(state.system.dense().cpu())

    def positions(self) -> Tensor:
        return torch.stack(self.snapshots)


class Log:
    """Energy, temperature and speed at intervals, kept in ``rows`` and given to ``write`` (for example ``tqdm.write``)."""

    def __init__(self, every: int, dt: float, write: Callable[[str], object] | None = None):
        self.every, self.dt, self.write = every, dt, write
        self.rows: list[dict[str, float]] = []
        self._began: tuple[float, int] | None = None

    def __call__(self, state: State) -> None:
        now = time.perf_counter()
        began, first = self._began or (now, state.step)
        self._began = (began, first)
        simulated = (state.step - first) * self.dt / units.ns
        row = {
            "step": float(state.step),
            "energy": float(state.energy.mean()),
            "temperature": float(state.kT.mean()) / units.kelvin,
            "ns/day": simulated / max(now - began, 1e-9) * 86400,
        }
        self.rows.append(row)
        if self.write:
            self.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()))


class TrajectoryWriter:
    """Positions in numbered chunk files of a folder, each whole or absent: readable after a kill at any moment."""

    def __init__(self, folder: str | Path, every: int, snapshots_per_chunk: int = 50):
        self.folder, self.every, self.size = Path(folder), every, snapshots_per_chunk
        self.buffer: list[np.ndarray] = []
        self.steps: list[int] = []
        self.chunks = len(list(self.folder.glob("chunk_*.npz"))) if self.folder.is_dir() else 0

    def __call__(self, state: State) -> None:
        self.buffer.append(state.system.dense().cpu().numpy().astype(np.float32))
        self.steps.append(state.step)
        if len(self.buffer) >= self.size:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if self.buffer:
            arrays = {"positions": np.stack(self.buffer), "steps": np.array(self.steps)}
            write_npz(self.folder / f"chunk_{self.chunks:05d}.npz", arrays, {"kind": "mlmd.trajectory"})
            self.buffer, self.steps, self.chunks = [], [], self.chunks + 1


def read_trajectory(folder: str | Path) -> tuple[Tensor, Tensor]:
    """(positions (T, S, n, 3), steps (T,)) written by :class:`TrajectoryWriter`.

    Raises:
        ValueError: if the folder holds no chunk.
    """
    chunks = [read_npz(p, kind="mlmd.trajectory")[0] for p in sorted(Path(folder).glob("chunk_*.npz"))]
    if not chunks:
        raise ValueError(f"{folder} holds no chunk_*.npz: nothing was simulated there")
    positions, steps = (np.concatenate([c[k] for c in chunks]) for k in ("positions", "steps"))
    return torch.from_numpy(positions), torch.from_numpy(steps)
