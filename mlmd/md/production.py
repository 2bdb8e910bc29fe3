"""Long runs into a folder: chunks that stay readable after a kill at any moment, and continue bit for bit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlmd import units
from mlmd.errors import BrokenCheckpoint
from mlmd.forces import Potential
from mlmd.md.integrators import Integrator
from mlmd.md.simulate import simulate
from mlmd.md.state import State, half_step_kT
from mlmd.store import read_npz, write_npz

KIND = "mlmd.production"


def produce(
    folder: str | Path,
    state: State,
    potential: Potential,
    integrator: Integrator,
    steps: int,
    *,
    every: int,
    seed: int = 0,
    snapshots_per_chunk: int = 50,
) -> Iterator[dict[str, float]]:
    """Simulate into ``folder``: positions every ``every`` steps, in chunk files that also hold the state at their end.

    A run found in the folder is continued from its last intact chunk, with the same noise as if it had never stopped; the
    caller sees to it that potential and integrator are the same (a folder per setting).

    Yields:
        after each chunk ``{"step", "steps", "temperature" (K, half-step kinetic), "energy" (eV), "ns/day"}``, ns/day summed
        over all systems.

    Raises:
        Unstable: as :func:`simulate`; chunks written before stay.
    """
    folder = Path(folder)
    generator = torch.Generator(state.system.positions.device).manual_seed(seed)
    done, stored = _last_chunk(folder)
    if stored:
        state = _restored(state, stored)
        generator.set_state(torch.from_numpy(stored["generator"]))
    chunk_steps = every * snapshots_per_chunk
    dt = float(torch.as_tensor(integrator.dt, dtype=torch.float64).mean())
    while state.step < steps:
        began, first = time.perf_counter(), state.step
        snapshots = []
        for state in simulate(state, potential, integrator, min(chunk_steps, steps - first), every=every, generator=generator):  # noqa: B020
            snapshots.append(state.system.dense().cpu().numpy().astype(np.float32))
        arrays = {"positions": np.stack(snapshots), "step": np.array(state.step), "generator": generator.get_state().numpy()}
        arrays |= {k: v.cpu().numpy() for k, v in _parts(state).items()}
        write_npz(folder / f"chunk_{done:05d}.npz", arrays, {"kind": KIND})
        done += 1
        simulated = (state.step - first) * dt * state.system.n_systems / units.ns
        yield {
            "step": float(state.step),
            "steps": float(steps),
            "temperature": float(half_step_kT(state).mean()) / units.kelvin,
            "energy": float(state.energy.mean()),
            "ns/day": simulated / (time.perf_counter() - began) * 86400,
        }


def read_production(folder: str | Path) -> Tensor:
    """(T, S, n, 3) positions in A of a run made by :func:`produce`.

    Raises:
        ValueError: if the folder holds no chunk.
    """
    chunks = [read_npz(p, kind=KIND)[0]["positions"] for p in sorted(Path(folder).glob("chunk_*.npz"))]
    if not chunks:
        raise ValueError(f"{folder} holds no chunk_*.npz: nothing was simulated there")
    return torch.from_numpy(np.concatenate(chunks))


def _parts(state: State) -> dict[str, Tensor]:
    return {"x": state.system.positions, "v": state.velocities, "f": state.forces, "e": state.energy}


def _restored(state: State, stored: dict[str, Any]) -> State:
    x, v, f, e = (torch.from_numpy(stored[k]).to(state.system.positions) for k in "xvfe")
    return replace(state, system=state.system.at(x), velocities=v, forces=f, energy=e, step=int(stored["step"]))


def _last_chunk(folder: Path) -> tuple[int, dict[str, Any] | None]:
    """(number of intact chunks, content of the last); a damaged chunk and all after it are removed with a warning."""
    files = sorted(folder.glob("chunk_*.npz"))
    last = None
    for k, path in enumerate(files):
        try:
            last = read_npz(path, kind=KIND)[0]
        except BrokenCheckpoint as error:
            warnings.warn(f"{error}; continuing from the chunk before", stacklevel=3)
            for broken in files[k:]:
                broken.unlink()
            return k, last
    return len(files), last
