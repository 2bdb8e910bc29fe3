"""Reference ensembles from OpenMM: parallel tempering of one molecule, resumable after a kill at any moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlmd.datasets.chunks import open_run, read_chunks, resume, write_chunk
from mlmd.errors import require

__all__ = ["minimised", "openmm_version", "parallel_tempering", "read_chunks"]


def parallel_tempering(
    system: Any,
    positions: np.ndarray,
    folder: str | Path,
    *,
    temperatures: tuple[float, ...] = (300.0, 366.0, 446.0, 545.0),
    n_frames: int = 10_000,
    frame_ps: float = 3.0,
    swap_ps: float = 1.0,
    dt_fs: float = 2.0,
    friction_per_ps: float = 1.0,
    frames_per_chunk: int = 200,
    seed: int = 0,
) -> Iterator[int]:
    r"""Sample the canonical ensemble at ``temperatures[0]``, helped over barriers by exchanges with hotter copies.

    Neighbouring temperatures swap configurations with the Metropolis probability
    :math:`\min(1, \exp[(\beta_i-\beta_j)(U_i-U_j)])` (Sugita and Okamoto 1999, eq. 14); velocities are rescaled by
    :math:`\sqrt{T_j/T_i}`. The work is cut into chunks. Every chunk starts from the stored float64 state with generators
    seeded by (seed, chunk), so a run that was killed continues exactly as if it had not been.

    Args:
        system: an ``openmm.System`` (not periodic).
        positions: (n, 3) start, in nm.
        folder: where ``chunk_00000.npz``, ... are written; an existing run in it is continued.

    Yields:
        the number of frames stored so far, once per chunk.

    Raises:
        MissingExtra: without OpenMM.
        ValueError: if the folder holds a run with other settings.
    """
    mm = require("openmm", extra="reference")
    settings = dict(
        temperatures=list(temperatures), frame_ps=frame_ps, swap_ps=swap_ps, dt_fs=dt_fs,
        friction_per_ps=friction_per_ps, frames_per_chunk=frames_per_chunk, seed=seed,
    )  # fmt: skip
    folder = open_run(folder, settings)

    contexts = [_context(mm, system, T, friction_per_ps, dt_fs) for T in temperatures]
    rest = np.stack([positions, np.zeros_like(positions)])
    state, done = resume(folder, np.stack([rest] * len(contexts)))
    swap_steps = round(swap_ps * 1000 / dt_fs)
    swaps_per_frame = max(1, round(frame_ps / swap_ps))
    while done * frames_per_chunk < n_frames:
        _start_chunk(contexts, state, seed, done)
        rng = np.random.default_rng([seed, done])
        frames, accepted, tried = [], 0, 0
        for _ in range(frames_per_chunk):
            for _ in range(swaps_per_frame):
                for context in contexts:
                    context.getIntegrator().step(swap_steps)
                a, t = _exchange(contexts, temperatures, rng)
                accepted, tried = accepted + a, tried + t
            frames.append(evaluated(contexts[0]))
        state = np.stack([phase_point(c) for c in contexts])
        x, f, e = (np.stack(z) for z in zip(*frames, strict=True))
        write_chunk(folder, done, x, f, e, state, acceptance=accepted / max(tried, 1))
        done += 1
        yield done * frames_per_chunk


def _context(mm: Any, system: Any, temperature: float, friction: float, dt_fs: float) -> Any:
    integrator = mm.LangevinMiddleIntegrator(temperature, friction, dt_fs * 1e-3)
    return mm.Context(system, integrator, mm.Platform.getPlatformByName("Reference"))


def _start_chunk(contexts: list, state: np.ndarray, seed: int, chunk: int) -> None:
    for k, (context, (x, v)) in enumerate(zip(contexts, state, strict=True)):
        # OpenMM reads the seed when a context is (re)initialised; 0 would mean "choose one"
        context.getIntegrator().setRandomNumberSeed(1 + (1_000_003 * seed + 101 * chunk + k) % 2_000_000_000)
        context.reinitialize()
        context.setPositions(x)
        context.setVelocities(v)


def phase_point(context: Any) -> np.ndarray:
    """(2, n, 3) positions in nm and velocities in nm/ps of an OpenMM context."""
    s = context.getState(getPositions=True, getVelocities=True)
    return np.stack([s.getPositions(asNumpy=True)._value, s.getVelocities(asNumpy=True)._value])


def evaluated(context: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Positions (n, 3) in nm, forces (n, 3) in kJ/mol/nm and energy in kJ/mol of an OpenMM context."""
    s = context.getState(getPositions=True, getForces=True, getEnergy=True)
    return s.getPositions(asNumpy=True)._value, s.getForces(asNumpy=True)._value, s.getPotentialEnergy()._value


def _exchange(contexts: list, temperatures: tuple, rng: np.random.Generator) -> tuple[int, int]:
    """Try all neighbouring pairs, even or odd ones by a coin toss."""
    gas_constant = 8.31446261815324e-3  # kJ/mol/K, exact by the SI
    energy = [c.getState(getEnergy=True).getPotentialEnergy()._value for c in contexts]
    accepted = tried = 0
    for i in range(int(rng.integers(2)), len(contexts) - 1, 2):
        delta = (1 / temperatures[i] - 1 / temperatures[i + 1]) / gas_constant * (energy[i] - energy[i + 1])
        tried += 1
        if np.log(rng.random()) < delta:
            (xi, vi), (xj, vj) = phase_point(contexts[i]), phase_point(contexts[i + 1])
            scale = np.sqrt(temperatures[i] / temperatures[i + 1])
            contexts[i].setPositions(xj), contexts[i].setVelocities(vj * scale)
            contexts[i + 1].setPositions(xi), contexts[i + 1].setVelocities(vi / scale)
            accepted += 1
    return accepted, tried


def openmm_version() -> str:
    """Name, version and platform of the engine, for the provenance."""
    return f"OpenMM {require('openmm', extra='reference').version.short_version}, Reference platform (double precision)"


def minimised(system: Any, positions: np.ndarray) -> np.ndarray:
    """Positions (n, 3) in nm at the next minimum of the potential energy."""
    mm = require("openmm", extra="reference")
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    mm.LocalEnergyMinimizer.minimize(context)
    return context.getState(getPositions=True).getPositions(asNumpy=True)._value
