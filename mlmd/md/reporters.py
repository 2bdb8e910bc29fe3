"""Reporters: what is kept of a simulation while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from mlmd import units
from mlmd.md.state import State, half_step_kT


class Recorder:
    """Keeps positions in memory; ``positions()`` is (snapshots, systems, n, 3)."""

    def __init__(self, every: int):
        self.every = every
        self.snapshots: list[Tensor] = []

    def __call__(self, state: State) -> None:
        self.snapshots.append(state.system.dense().cpu())

    def positions(self) -> Tensor:
        """(snapshots, systems, n, 3) in A."""
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
            "temperature": float(half_step_kT(state).mean()) / units.kelvin,
            "ns/day": simulated / max(now - began, 1e-9) * 86400,
        }
        self.rows.append(row)
        if self.write:
            self.write("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
