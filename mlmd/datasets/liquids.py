r"""Reference liquids from OpenMM: constant pressure until the density is known, then constant volume at that density.

A run is a folder. ``equilibration_00000.npz``, ... hold the box and the density during Langevin dynamics with the Monte Carlo barostat
(Chow and Ferguson, Comput. Phys. Commun. 91, 283 (1995); Aqvist et al., Chem. Phys. Lett. 384, 288 (2004)); the mean volume of the last
three quarters is the volume of the frames in ``chunk_00000.npz``, ... (:mod:`mlmd.datasets.chunks`). Every file is whole or absent and
starts with generators seeded by (seed, its number), so a run that was killed continues as if it had not been.

Molecules are whole in every frame and move through the walls of the box without being wrapped back, so displacements are those of the
trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlmd import units
from mlmd.datasets.chunks import open_run, resume, write_chunk
from mlmd.datasets.sampling import evaluated, phase_point
from mlmd.errors import require
from mlmd.store import write_atomic

ATMOSPHERE = 1.01325  # bar
DISCARDED = 0.25  # of the run at constant pressure, before its mean is taken
SPACING = 0.05  # of the lattice on which molecules start, relative to their own extent
SHRINK = 0.97  # of the box in one stage of compression
BLOCKS = 8
_NM3 = 1e-21  # cm^3


@dataclass(frozen=True)
class Protocol:
    """How a liquid is sampled.

    | field | unit | |
    |---|---|---|
    | temperature | K | |
    | pressure | bar | of the equilibration |
    | dt_fs | fs | time step |
    | frame_ps | ps | between frames |
    | equilibration_ps | ps | at constant pressure, a quarter of it discarded |
    | settle_ps | ps | at constant volume before the first frame |
    | friction_per_ps | 1/ps | of the production, weak so that kinetics are nearly Newtonian |
    | frames_per_chunk | | |
    """

    temperature: float
    dt_fs: float
    frame_ps: float
    equilibration_ps: float
    pressure: float = ATMOSPHERE
    settle_ps: float = 10.0
    friction_per_ps: float = 0.1
    equilibration_friction_per_ps: float = 1.0
    frames_per_chunk: int = 100

    def steps(self, ps: float) -> int:
        """Time steps in ``ps``."""
        return round(ps * 1000 / self.dt_fs)


class Density(NamedTuple):
    """Mean and standard error in g/cm^3, from blocks of a run at constant pressure; edge of the cubic box of that volume in A."""

    mean: float
    error: float
    edge: float


def lattice(molecule: np.ndarray, n_molecules: int, seed: int = 0, *, rotate: bool = True) -> tuple[np.ndarray, float]:
    """Copies of a molecule on a simple cubic lattice, far enough apart not to touch.

    Args:
        molecule: (sites, 3) or one conformation per copy (n_molecules, sites, 3), any length unit.
        rotate: turn every copy at random.

    Returns:
        positions (n_molecules * sites, 3) and the edge of the cubic box, in that unit.

    Raises:
        ValueError: for no molecule.
    """
    if n_molecules < 1:
        raise ValueError(f"n_molecules={n_molecules}: at least one molecule is needed")
    rng = np.random.default_rng([seed, 77])
    each = np.broadcast_to(molecule, (n_molecules, *np.shape(molecule)[-2:]))
    each = each - each.mean(1, keepdims=True)
    if rotate:
        each = np.einsum("mij,mnj->mni", np.stack([_rotation(rng) for _ in each]), each)
    rows = int(np.ceil(n_molecules ** (1 / 3) - 1e-9))
    spacing = (1 + SPACING) * float(2 * np.linalg.norm(each, axis=-1).max()) + 0.2 * (np.abs(each).max() > 0)
    sites = np.stack(np.meshgrid(*[np.arange(rows)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n_molecules] + 0.5
    return (each + spacing * sites[:, None]).reshape(-1, 3), spacing * rows


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """A proper rotation, uniform over all of them."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def sample_liquid(
    system: Any,
    start: np.ndarray,
    edge: float,
    folder: str | Path,
    protocol: Protocol,
    *,
    n_frames: int,
    seed: int,
    sites_per_molecule: int,
    density: float,
    keep: np.ndarray | None = None,
    **settings: Any,
) -> Iterator[int]:
    """Compress, equilibrate at constant pressure, then store frames at constant volume; yields the number of frames stored.

    Args:
        system: a periodic ``openmm.System`` of equal molecules; start: (n, 3) in nm, whole, in a cubic box with this ``edge`` (nm).
        density: g/cm^3 to which the start is compressed before the barostat takes over.
        keep: indices of the sites that are stored; default all. Forces on virtual sites are already spread over their atoms.
        settings: more to be written into ``settings.json``.

    Raises:
        MissingExtra: without OpenMM.
        ValueError: if the folder holds a run with other settings.
    """
    mm = require("openmm", extra="reference")
    told = {**protocol.__dict__, "seed": seed, "n_sites": len(start), **settings}
    folder = open_run(folder, told)
    keep = np.arange(len(start)) if keep is None else keep
    dense = (mass(system) / density) ** (1 / 3)
    for _ in equilibrate(mm, system, start, edge, dense, folder, protocol, seed, sites_per_molecule):
        yield 0
    box = measured_density(folder).edge / 10
    x, v, old = last_equilibration(folder)
    first = np.stack([moved(x, old, box, sites_per_molecule), v])
    state, done = resume(folder, first)
    context = _context(mm, system, protocol.temperature, protocol.friction_per_ps, protocol.dt_fs)
    while done * protocol.frames_per_chunk < n_frames:
        _restart(context, state, box, seed, done)
        if done == 0:
            context.getIntegrator().step(protocol.steps(protocol.settle_ps))
        frames = []
        for _ in range(protocol.frames_per_chunk):
            context.getIntegrator().step(protocol.steps(protocol.frame_ps))
            frames.append(evaluated(context))
        state = phase_point(context)
        x, f, e = (np.stack(z) for z in zip(*frames, strict=True))
        cell = np.broadcast_to(np.eye(3) * box, (len(e), 3, 3))
        write_chunk(folder, done, x[:, keep], f[:, keep], e, state, cell=cell)
        done += 1
        yield done * protocol.frames_per_chunk


def equilibrate(
    mm: Any, system: Any, start: np.ndarray, edge: float, dense: float, folder: Path, protocol: Protocol, seed: int, size: int
) -> Iterator[int]:
    """Run at constant pressure in files of 10 ps; yields how many are on disk, and goes on after those that are there."""
    n_files = max(1, round(protocol.equilibration_ps / 10))
    done = len(list(folder.glob("equilibration_*.npz")))
    if done >= n_files:
        return
    barostated = mm.XmlSerializer.clone(system)
    barostat = mm.MonteCarloBarostat(protocol.pressure, protocol.temperature, 25)
    barostated.addForce(barostat)
    context = _context(mm, barostated, protocol.temperature, protocol.equilibration_friction_per_ps, protocol.dt_fs)
    if done == 0:
        x, v = compressed(mm, system, start, edge, dense, protocol, seed, size)
        box = dense
    else:
        x, v, box = last_equilibration(folder)
    weight = mass(system)
    for number in range(done, n_files):
        barostat.setRandomNumberSeed(_seed(seed, number, 7))
        _restart(context, np.stack([x, v]), box, seed, 1_000_000 + number)
        boxes = []
        for _ in range(100):
            context.getIntegrator().step(protocol.steps(0.1))
            boxes.append(context.getState().getPeriodicBoxVectors(asNumpy=True)._value[0, 0])
        (x, v), box = phase_point(context), boxes[-1]
        arrays = {"state": np.stack([x, v]), "edge": np.array(boxes), "density": weight / np.array(boxes) ** 3}
        write_atomic(folder / f"equilibration_{number:05d}.npz", lambda path, a=arrays: np.savez(path, **a))
        yield number + 1


def compressed(
    mm: Any, system: Any, start: np.ndarray, edge: float, dense: float, protocol: Protocol, seed: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities in a box of edge ``dense`` (nm): molecules are pushed together in stages, with hot dynamics between."""
    context = _context(mm, system, protocol.temperature, 10.0, min(1.0, protocol.dt_fs))
    _restart(context, np.stack([start, np.zeros_like(start)]), edge, seed, 2_000_000)
    mm.LocalEnergyMinimizer.minimize(context, 100.0, 50)
    context.setVelocitiesToTemperature(protocol.temperature, _seed(seed, 0, 3))
    stages = max(1, int(np.ceil(abs(np.log(edge / dense) / np.log(SHRINK)))))
    for new in edge * (dense / edge) ** (np.arange(1, stages + 1) / stages):
        x = moved(phase_point(context)[0], edge, new, size)
        edge = float(new)
        _set_box(context, edge)
        context.setPositions(x)
        context.computeVirtualSites()
        mm.LocalEnergyMinimizer.minimize(context, 100.0, 20)
        context.setVelocitiesToTemperature(protocol.temperature, _seed(seed, 1, 3))
        context.getIntegrator().step(100)
    context.getIntegrator().step(2000)
    state = phase_point(context)
    return state[0], state[1]


def moved(x: np.ndarray, old: float, new: float, size: int) -> np.ndarray:
    """Whole molecules of ``size`` sites with their centres scaled from a box of edge ``old`` to one of edge ``new``."""
    each = x.reshape(-1, size, 3)
    centre = each.mean(1, keepdims=True)
    return (each + centre * (new / old - 1)).reshape(-1, 3)


def last_equilibration(folder: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Positions (nm), velocities (nm/ps) and edge (nm) at the end of the run at constant pressure."""
    with np.load(sorted(folder.glob("equilibration_*.npz"))[-1]) as z:
        return z["state"][0], z["state"][1], float(z["edge"][-1])


def measured_density(folder: str | Path) -> Density:
    """Density of a run at constant pressure, without its first quarter; the error is from the scatter of eight block means.

    Raises:
        ValueError: if the folder holds no such run.
    """
    paths = sorted(Path(folder).glob("equilibration_*.npz"))
    if not paths:
        raise ValueError(f"folder={str(folder)!r} holds no equilibration_*.npz: generate the liquid first")
    edges = np.concatenate([np.load(p)["edge"] for p in paths])
    rho = np.concatenate([np.load(p)["density"] for p in paths])
    kept = slice(round(DISCARDED * len(edges)), None)
    volume = (edges[kept] ** 3).mean()
    weight = rho[0] * edges[0] ** 3
    blocks = np.array([b.mean() for b in np.array_split(rho[kept], BLOCKS)])
    return Density(float(weight / volume), float(blocks.std(ddof=1) / BLOCKS**0.5), float(10 * volume ** (1 / 3)))


def mass(system: Any) -> float:
    """Mass of all sites in g/cm^3 nm^3, so that it is the density times the volume in nm^3."""
    amu = sum(system.getParticleMass(i)._value for i in range(system.getNumParticles()))
    return amu * 1.66053906660e-24 / _NM3


def engine() -> str:
    """Name, version and platform of the engine, for the provenance."""
    return f"OpenMM {require('openmm', extra='reference').version.short_version}, CPU platform (single precision), one thread"


def _context(mm: Any, system: Any, temperature: float, friction: float, dt_fs: float) -> Any:
    integrator = mm.LangevinMiddleIntegrator(temperature, friction, dt_fs * 1e-3)
    integrator.setConstraintTolerance(1e-6)
    properties = {"Threads": "1", "DeterministicForces": "true"}
    return mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), properties)


def _restart(context: Any, state: np.ndarray, edge: float, seed: int, number: int) -> None:
    context.getIntegrator().setRandomNumberSeed(_seed(seed, number, 0))
    context.reinitialize()
    _set_box(context, edge)
    context.setPositions(state[0])
    context.setVelocities(state[1])
    context.computeVirtualSites()


def _seed(seed: int, number: int, purpose: int) -> int:
    """A seed for OpenMM, which reads 0 as "choose one"."""
    return 1 + (1_000_003 * seed + 101 * number + purpose) % 2_000_000_000


def _set_box(context: Any, edge: float) -> None:
    context.setPeriodicBoxVectors(*(np.eye(3) * edge))


def edge_of(n_molecules: int, molecule_mass: float, density: float) -> float:
    """Edge in A of a cubic box: molecule_mass in eV fs^2/A^2, density in g/cm^3."""
    return float((n_molecules * molecule_mass / units.amu * 1.66053906660 / density) ** (1 / 3))
