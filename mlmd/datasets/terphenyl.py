"""o-Terphenyl in the gas phase with GFN2-xTB, by tblite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlmd import units
from mlmd.datasets.langevin import Forces, langevin
from mlmd.datasets.recipe import DatasetInfo, Recipe
from mlmd.errors import require

if TYPE_CHECKING:
    import mdtraj

RING, LINK, CH = 1.395, 1.490, 1.085  # A: aromatic C-C, between rings, C-H; only the start of the relaxation
TWIST = np.radians(55)  # of the outer rings against the inner one
HYDROGEN_MASS = 3.0  # amu, while sampling: allows steps of 2 fs and leaves the distribution of positions as it is
DT_FS, FRAME_STEPS, FRICTION_PER_PS = 2.0, 15, 2.0
METHOD = "GFN2-xTB"

INFO = DatasetInfo(
    name="o-terphenyl",
    description="o-terphenyl, one molecule in the gas phase: three rings, three beads",
    atoms=32,
    frames=3100,
    temperature=300.0,
    source="tblite Langevin dynamics, GFN2-xTB (Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 2019, 15, 1652), no constraints",
)


def topology() -> mdtraj.Topology:
    """C18H14: inner ring (C6H4), then the two outer ones (C6H5 each); carbons of a ring first."""
    import mdtraj

    out = mdtraj.Topology()
    residue = out.add_residue("OTP", out.add_chain(), resSeq=1)
    ipso, carbon, hydrogen = [], 0, 0
    for ring, free in enumerate(((2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5))):
        atoms = [out.add_atom(f"C{carbon + k + 1}", mdtraj.element.carbon, residue) for k in range(6)]
        for k in range(6):
            out.add_bond(atoms[k], atoms[(k + 1) % 6])
        for k in free:
            hydrogen += 1
            out.add_bond(atoms[k], out.add_atom(f"H{hydrogen}", mdtraj.element.hydrogen, residue))
        carbon += 6
        if ring == 0:
            ipso = atoms[:2]
        else:
            out.add_bond(ipso[ring - 1], atoms[0])
    return out


def built() -> np.ndarray:
    """Rings put together from ideal lengths, (32, 3) in A, in the order of :func:`topology`."""
    angles = np.radians(60) * np.arange(6)
    out = _ring(np.zeros(3), np.eye(3)[0], np.eye(3)[1], free=(2, 3, 4, 5))
    for k, turn in ((0, TWIST), (1, TWIST)):
        outward = np.array([np.cos(angles[k]), np.sin(angles[k]), 0.0])
        tangent = np.array([-outward[1], outward[0], 0.0])
        sideways = np.cos(turn) * tangent + np.sin(turn) * np.eye(3)[2]
        centre = outward * (RING + LINK + RING)
        out += _ring(centre, -outward, sideways, free=(1, 2, 3, 4, 5))
    return np.array(out)


def _ring(centre: np.ndarray, a: np.ndarray, b: np.ndarray, free: tuple[int, ...]) -> list[np.ndarray]:
    spokes = [np.cos(t) * a + np.sin(t) * b for t in np.radians(60) * np.arange(6)]
    return [centre + RING * s for s in spokes] + [centre + (RING + CH) * spokes[k] for k in free]


def gfn2() -> Forces:
    """A function positions (A) -> energy (eV), forces (eV/A); each call starts from the electronic structure of the one before."""
    interface = require("tblite.interface", extra="reference")
    numbers = np.array([a.element.atomic_number for a in topology().atoms])
    calculator = interface.Calculator(METHOD, numbers, built() / units.bohr)
    calculator.set("verbosity", 0)
    last = None

    def forces(positions: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal last
        calculator.update(positions / units.bohr)
        last = calculator.singlepoint(last)
        return last.get("energy") * units.hartree, -last.get("gradient") * (units.hartree / units.bohr)

    return forces


def start() -> np.ndarray:
    """:func:`built`, relaxed to 0.01 eV/A, (32, 3) in A."""
    from scipy.optimize import minimize

    calculate, x0 = gfn2(), built()

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        energy, f = calculate(x.reshape(-1, 3))
        return energy, -f.ravel()

    return minimize(objective, x0.ravel(), jac=True, method="L-BFGS-B", options={"gtol": 0.01, "maxiter": 300}).x.reshape(-1, 3)


def sampling_masses() -> np.ndarray:
    """Masses with heavy hydrogens, taken from the bonded carbons, (32,) in eV fs^2/A^2."""
    top = topology()
    mass = np.array([a.element.mass for a in top.atoms])
    for a, b in top.bonds:
        if "H" in (a.element.symbol, b.element.symbol):
            h, c = (a, b) if a.element.symbol == "H" else (b, a)
            mass[c.index] -= HYDROGEN_MASS - mass[h.index]
            mass[h.index] = HYDROGEN_MASS
    return mass * units.amu


def sample(folder: Path, n_frames: int, seed: int) -> Iterator[int]:
    """Chunks of Langevin dynamics from the relaxed structure; yields frames stored."""
    yield from langevin(
        gfn2, sampling_masses(), start(), folder, temperature=INFO.temperature, n_frames=n_frames, frame_steps=FRAME_STEPS,
        dt_fs=DT_FS, friction_per_ps=FRICTION_PER_PS, frames_per_chunk=100, seed=seed, method=METHOD,
    )  # fmt: skip


def tblite_version() -> str:
    """Name and version of the engine, for the provenance."""
    from importlib.metadata import version

    require("tblite", extra="reference")
    return f"tblite {version('tblite')}, default accuracy"


RECIPE = Recipe(
    info=INFO,
    topology=topology,
    sample=sample,
    settings={"hydrogen mass while sampling / amu": HYDROGEN_MASS, "constraints": "none", "boundary": "gas phase"},
    frame_ps=FRAME_STEPS * DT_FS / 1000,
    engine=tblite_version,
)
