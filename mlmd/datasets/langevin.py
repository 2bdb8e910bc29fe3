"""Langevin dynamics of one small molecule with forces from any program, resumable after a kill at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlmd import units
from mlmd.datasets.chunks import open_run, resume, write_chunk

Forces = Callable[[np.ndarray], tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Point:
    """Positions (A), velocities (A/fs), forces (eV/A), each (n, 3), and energy (eV)."""

    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray
    energy: float


def langevin(
    new_forces: Callable[[], Forces],
    masses: np.ndarray,
    start: np.ndarray,
    folder: str | Path,
    *,
    temperature: float,
    n_frames: int,
    frame_steps: int,
    dt_fs: float,
    friction_per_ps: float,
    frames_per_chunk: int,
    seed: int,
    **settings: Any,
) -> Iterator[int]:
    """Sample the canonical ensemble with BAOAB (Leimkuhler and Matthews 2013); yields the number of frames stored.

    Every chunk starts with a force function made anew (so nothing but the stored state carries over) and a generator seeded by (seed,
    chunk): a run that was killed continues exactly as if it had not been.

    Args:
        new_forces: makes a function positions (n, 3) in A -> energy (eV), forces (eV/A).
        masses: (n,), eV fs^2/A^2; start: (n, 3), A.
        temperature: K.
        settings: more to be written into ``settings.json``.

    Raises:
        ValueError: if the folder holds a run with other settings.
    """
    told = dict(
        temperature=temperature, frame_steps=frame_steps, dt_fs=dt_fs, friction_per_ps=friction_per_ps,
        frames_per_chunk=frames_per_chunk, seed=seed, **settings,
    )  # fmt: skip
    folder = open_run(folder, told)
    m, kT = masses[:, None], temperature * units.kelvin
    state, done = resume(folder, np.stack([start, np.zeros_like(start)]))
    while done * frames_per_chunk < n_frames:
        rng, forces = np.random.default_rng([seed, done]), new_forces()
        if done == 0:
            state = np.stack([state[0], rng.normal(size=start.shape) * np.sqrt(kT / m)])
        energy, f = forces(state[0])
        point = Point(state[0], state[1], f, energy)
        frames = []
        for _ in range(frames_per_chunk):
            for _ in range(frame_steps):
                point = baoab(point, forces, m, kT, dt_fs * units.fs, friction_per_ps / units.ps, rng.normal(size=start.shape))
            frames.append(point)
        state = np.stack([point.positions, point.velocities])
        write_chunk(
            folder, done,
            positions=np.stack([p.positions for p in frames]) / units.nm,
            forces=np.stack([p.forces for p in frames]) / (units.kJ_mol / units.nm),
            energies=np.array([p.energy for p in frames]) / units.kJ_mol,
            state=state,
        )  # fmt: skip
        done += 1
        yield done * frames_per_chunk


def baoab(p: Point, forces: Forces, m: np.ndarray, kT: float, dt: float, friction: float, noise: np.ndarray) -> Point:
    """Kick, drift, friction and noise, drift, kick."""
    keep = np.exp(-friction * dt)
    v = p.velocities + dt / 2 * p.forces / m
    x = p.positions + dt / 2 * v
    v = keep * v + np.sqrt((1 - keep**2) * kT / m) * noise
    x = x + dt / 2 * v
    energy, f = forces(x)
    return replace(p, positions=x, velocities=v + dt / 2 * f / m, forces=f, energy=energy)
