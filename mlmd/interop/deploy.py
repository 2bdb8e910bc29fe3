"""A folder that runs: a stored potential and a frame of beads, written for OpenMM or LAMMPS with a script to start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mlmd import store, units
from mlmd.errors import require
from mlmd.frames import Frames
from mlmd.interop.lammps import Run, to_lammps
from mlmd.interop.openmm import positions_nm, to_openmm, topology
from mlmd.interop.terms import NoFormula
from mlmd.system import System


@dataclass(frozen=True)
class Deployed:
    """What was written: the file to start, the command that starts it, and what should be known about it."""

    start: Path
    command: str
    note: str


def deploy(
    potential: nn.Module, beads: Frames, target: str, folder: str | Path, *, frame: int = 0, run: Run | None = None
) -> Deployed:
    """Write ``potential`` and one frame of ``beads`` for ``target`` into ``folder``; the file to start is written last.

    Args:
        potential: as ``Study.export`` stores it, for instance.
        beads: frames of the beads it was made for; types, masses, bonds, names and the cell are taken from them.
        target: "openmm" or "lammps". OpenMM runs potentials without a formula through a script that calls mlmd.
        folder: made if it is not there.
        frame: the one to start from.
        run: temperature, time step and length of the run.

    Raises:
        ValueError: an unknown target or frame; beads without mass; for LAMMPS, a potential without a formula.
    """
    if target not in TARGETS:
        raise ValueError(f"target={target!r}: choose one of {', '.join(TARGETS)}")
    if not -len(beads) <= frame < len(beads):
        raise ValueError(f"frame={frame}: the beads have frames 0 to {len(beads) - 1}")
    one = beads[frame]
    system = one.system().to(torch.float64)
    if not bool((system.masses > 0).all()):
        raise ValueError("the beads have no masses: give Frames(..., masses=...), in eV fs^2/A^2")
    return TARGETS[target](potential, one, system, store.writable_folder(folder, "folder"), run or Run())


def _lammps(potential: nn.Module, beads: Frames, system: System, folder: Path, run: Run) -> Deployed:
    path = to_lammps(potential, system, folder, run=run)
    return Deployed(path, "mpirun -n 4 lmp -in in.lmp", "LAMMPS needs its packages MOLECULE, EXTRA-MOLECULE, EXTRA-PAIR and KSPACE")


def _openmm(potential: nn.Module, beads: Frames, system: System, folder: Path, run: Run) -> Deployed:
    mm = require("openmm", extra="reference")
    names = [a.name for a in beads.topology.atoms]
    try:
        made, top = to_openmm(potential, system, names=names, bonds=beads.bonds)
        load, note = CLASSICAL, "needs OpenMM alone"
        _write(folder / "system.xml", mm.XmlSerializer.serialize(made))
    except NoFormula as reason:
        top = topology(system, names, beads.bonds)
        load, note = LEARNED, f"calls mlmd at every step, since {str(reason).split(':')[0]}"
        store.save(folder / "potential.npz", potential)
        beads.save(folder / "beads.npz")
    positions = positions_nm(system)
    _save(folder / "start.npy", positions)
    _write_pdb(folder / "beads.pdb", top, positions)
    path = _write(folder / "run.py", script(load, run))
    return Deployed(path, "python run.py", note)


TARGETS: dict[str, Callable[[nn.Module, Frames, System, Path, Run], Deployed]] = {"openmm": _openmm, "lammps": _lammps}


def _write(path: Path, text: str) -> Path:
    return store.write_atomic(path, lambda name: Path(name).write_text(text))


def _save(path: Path, array: np.ndarray) -> Path:
    def write(name: str) -> None:
        with open(name, "wb") as f:
            np.save(f, array)

    return store.write_atomic(path, write)


def _write_pdb(path: Path, top: object, positions: np.ndarray) -> Path:
    app, mu = require("openmm.app", extra="reference"), require("openmm.unit", extra="reference")

    def write(name: str) -> None:
        with open(name, "w") as f:
            app.PDBFile.writeFile(top, positions * mu.nanometer, f)

    return store.write_atomic(path, write)


def script(load: str, run: Run) -> str:
    """The OpenMM script: how to get the system, and Langevin dynamics with the given defaults."""
    values = {
        "T": f"{run.kT / units.kelvin:.10g}",
        "DT": f"{run.dt:.10g}",
        "FRICTION": f"{run.friction * units.ps:.10g}",
        "STEPS": str(run.steps),
        "EVERY": str(run.every),
        "SEED": str(run.seed),
        "LOAD": load,
    }
    text = SCRIPT
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


CLASSICAL = """system = openmm.XmlSerializer.deserialize((here / "system.xml").read_text())
"""

LEARNED = """# the potential is evaluated by mlmd through OpenMM's PythonForce
import torch

from mlmd import store
from mlmd.frames import Frames
from mlmd.interop.openmm import to_openmm_python

beads = Frames.load(here / "beads.npz")
potential = store.load(here / "potential.npz").double()
system, _ = to_openmm_python(potential, beads.system().to(torch.float64), bonds=beads.bonds)
"""

SCRIPT = '''"""Langevin dynamics in OpenMM, written by mlmd. Try: python run.py --help"""

import argparse
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
arguments.add_argument("--temperature", type=float, default=@T@, help="K")
arguments.add_argument("--time-step", type=float, default=@DT@, help="fs")
arguments.add_argument("--friction", type=float, default=@FRICTION@, help="1/ps")
arguments.add_argument("--steps", type=int, default=@STEPS@, help="time steps in all")
arguments.add_argument("--every", type=int, default=@EVERY@, help="steps between two frames")
arguments.add_argument("--seed", type=int, default=@SEED@)
arguments.add_argument("--platform", help="Reference, CPU, CUDA, OpenCL or HIP (default: the fastest)")
a = arguments.parse_args()

here = Path(__file__).resolve().parent
@LOAD@
integrator = openmm.LangevinMiddleIntegrator(a.temperature * unit.kelvin, a.friction / unit.picosecond, a.time_step * unit.femtosecond)
integrator.setRandomNumberSeed(a.seed)
platform = [openmm.Platform.getPlatformByName(a.platform)] if a.platform else []
simulation = app.Simulation(app.PDBFile(str(here / "beads.pdb")).topology, system, integrator, *platform)
simulation.context.setPositions(np.load(here / "start.npy"))
energy = simulation.context.getState(getEnergy=True).getPotentialEnergy()
print(f"start: {energy.value_in_unit(unit.kilojoule_per_mole):.9g} kJ/mol")
simulation.context.setVelocitiesToTemperature(a.temperature * unit.kelvin, a.seed)
simulation.reporters.append(app.DCDReporter(str(here / "trajectory.dcd"), a.every))
log = dict(step=True, time=True, potentialEnergy=True, temperature=True, speed=True)
simulation.reporters.append(app.StateDataReporter(str(here / "log.csv"), a.every, **log))
simulation.step(a.steps)
simulation.saveState(str(here / "final.xml"))
'''
