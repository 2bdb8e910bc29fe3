"""Speed of a pair potential where it was carried to: a liquid of 1000 beads in mlmd, OpenMM and LAMMPS, one thread each.

pip install 'mlmd[interop,reference,fast]' && python benchmarks/deployed_speed.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from deployed import run_lammps
from record import record

from mlmd import units
from mlmd.interop.lammps import Run, to_lammps
from mlmd.interop.openmm import ENERGY, LENGTH, positions_nm, to_openmm
from mlmd.md import VelocityVerlet, rest, simulate
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.pair import LennardJones, PairPotential
from mlmd.potentials.spline import TabulatedPair
from mlmd.system import System

EDGE, SPACING = 10, 3.8  # particles along an edge, A
DT = 2.0 * units.fs


def liquid() -> System:
    """A disordered cubic lattice of argon."""
    generator = torch.Generator().manual_seed(0)
    x = SPACING * torch.cartesian_prod(*[torch.arange(EDGE, dtype=torch.float64)] * 3)
    x = x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return System.single(x, masses=torch.full((len(x),), 39.948 * units.amu, dtype=x.dtype), cell=EDGE * SPACING)


def per_step(run: Callable[[], None], steps: int, repeats: int) -> float:
    """Median CPU seconds per step of ``repeats`` runs after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append((time.process_time() - began) / steps)
    return float(np.median(times))


def in_mlmd(law: PairPotential, system: System, steps: int, repeats: int) -> float:
    """The engine with the law as a table in a compiled loop."""
    states = [rest(system)]

    def run() -> None:
        (states[0],) = simulate(states[0], Accelerated(law), VelocityVerlet(dt=DT), steps, every=steps)

    return per_step(run, steps, repeats)


def in_openmm(made: Any, system: System, steps: int, repeats: int) -> float:
    """OpenMM's CPU platform."""
    import openmm as mm

    integrator = mm.VerletIntegrator(DT / units.ps)
    context = mm.Context(made, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(positions_nm(system))

    def run() -> None:
        integrator.step(steps)
        context.getState(getEnergy=True)

    return per_step(run, steps, repeats)


def continuous(law: PairPotential, system: System, points: int) -> Any:
    """The same law by hand, as OpenMM's own interpolating function."""
    import openmm as mm

    made, _ = to_openmm(law, system)
    made.removeForce(0)
    r, zero = torch.linspace(2.5, law.cutoff, points, dtype=torch.float64), torch.zeros(points, dtype=torch.long)
    u = law.value(r, zero, zero).detach() * ENERGY
    force = mm.CustomNonbondedForce("u(r)")
    force.addTabulatedFunction("u", mm.Continuous1DFunction(u.tolist(), 2.5 * LENGTH, law.cutoff * LENGTH))
    for _ in range(len(system)):
        force.addParticle([])
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(law.cutoff * LENGTH)
    made.addForce(force)
    return made


def in_lammps(law: PairPotential, system: System, steps: int, repeats: int) -> float:
    """LAMMPS' own clock of the loop, times its share of the CPU."""
    times = []
    with TemporaryDirectory() as name:
        path = to_lammps(law, system, name, run=Run(dt=DT, steps=steps, every=steps))
        path.write_text(path.read_text().replace("fix bath", "# fix bath").replace("velocity all", "# velocity all"))
        for _ in range(repeats):
            times.append(run_lammps(Path(name)) / steps)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    system, law = liquid(), LennardJones(0.0104, 3.4, 8.5)
    r, zero = torch.linspace(2.5, 8.5, 400, dtype=torch.float64), torch.zeros(400, dtype=torch.long)
    table = TabulatedPair(r, law.value(r, zero, zero).detach())
    how = (args.steps, args.repeats)
    rows = []
    for name, potential in (("Lennard-Jones, switched", law), ("a table of 400 points", table)):
        row: dict[str, Any] = {"law": name, "mlmd": 1 / in_mlmd(potential, system, *how)}
        row["mlmd, single precision"] = 1 / in_mlmd(potential, system.to(torch.float32), *how)
        row["OpenMM CPU, exported"] = 1 / in_openmm(to_openmm(potential, system)[0], system, *how)
        by_hand = None if potential is law else 1 / in_openmm(continuous(potential, system, 400), system, *how)
        row["OpenMM CPU, its own interpolation"] = by_hand
        row["LAMMPS, exported"] = 1 / in_lammps(potential, system, *how)
        rows.append(row)
    notes = (
        f"Steps per second of CPU time, {len(system)} beads, cutoff 8.5 A, velocity Verlet at {DT:g} fs, median of {args.repeats} runs of "
        f"{args.steps} steps, list building included. mlmd with its tables; OpenMM in single precision, LAMMPS in double precision."
    )
    record("deployed_speed", rows, "python benchmarks/deployed_speed.py", notes)


if __name__ == "__main__":
    main()
