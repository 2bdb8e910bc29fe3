"""Coarse-grained liquids in a large box in mlmd, OpenMM and LAMMPS: the same potential, its energy in each, and the speed.

    pip install 'mlmd[interop,reference,fast]' && python benchmarks/deployed_liquid.py [--values runs/ethane/IBI-1.json]

The boxes of the shipped ethane and tetracosane, eight times as large; pair potentials by Boltzmann inversion unless a file has the values of a
better one for ethane. One thread, CPU time, the three programs in turns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from deployed import run_lammps
from record import record
from torch import Tensor

from mlmd import datasets, units
from mlmd.cg import mapping
from mlmd.cg.boltzmann_inversion import boltzmann_inversion
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.pair_core import with_core
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.forces import energy_forces
from mlmd.interop.lammps import Run, to_lammps
from mlmd.interop.openmm import ENERGY, LENGTH, positions_nm, to_openmm
from mlmd.md import Langevin, State, enlarged, rest, simulate
from mlmd.neighbors import neighbors
from mlmd.potentials.compose import Potential
from mlmd.system import System

FRICTION = 1 / units.ps
SETTLE = 1000  # steps before anything is measured


@dataclass(frozen=True, eq=False)
class Liquid:
    """A settled box and its potential; dt in fs, kT in eV."""

    name: str
    potential: Potential
    state: State
    dt: float
    kT: float
    skin: float


def liquid(name: str, beads: int, *, cutoff: float, width: float, dt: float, skin: float, values: Path | None = None) -> Liquid:
    """Molecules of ``beads`` beads from the data set of this name, twice the box in every direction."""
    atoms = datasets.load(name)
    frames = with_equivalent_types(mapping.sequence(atoms, beads), atoms, reach=0).apply(atoms)
    assert frames.types is not None and frames.kT is not None
    molecules, kT, n_types = LiquidMolecules.of(frames), frames.kT, int(frames.types.max()) + 1
    types = tuple((a, b) for a in range(n_types) for b in range(a, n_types))
    r_max = cutoff + 1.2
    target = molecules.target(frames, r_max=r_max, bins=round(r_max / width), types=types)
    basis = target.basis(cutoff)
    if values is None:
        u = with_core(boltzmann_inversion(target, basis, kT), target, basis)
    else:
        u = torch.tensor(json.loads(values.read_text())["values"])
    potential = molecules.potential(basis.law(u))
    generator = torch.Generator().manual_seed(0)
    last = frames.system(len(frames) - 1).to(torch.float32)
    state = enlarged(last, (2, 2, 2), kT, generator, bonds=frames.bonds)
    integrator = Langevin(dt, kT, 5 * FRICTION)
    (settled,) = simulate(state, potential, integrator, SETTLE, every=SETTLE, generator=generator, skin=skin)
    return Liquid(f"{name}, {len(settled.system)} beads", potential, settled, dt, kT, skin)


@dataclass(frozen=True, eq=False)
class Program:
    """energy in eV and forces (N, 3) in eV/A of the settled box; run: CPU seconds that so many steps take."""

    energy: float
    forces: Tensor
    run: Callable[[int], float]


def clocked(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def in_mlmd(box: Liquid) -> Program:
    """The engine in single precision."""
    now, integrator = [rest(box.state.system, box.state.velocities)], Langevin(box.dt, box.kT, FRICTION)
    with torch.no_grad():
        found = energy_forces(box.potential, box.state.system, neighbors(box.state.system, box.potential.cutoff))

    def run(steps: int) -> float:
        def work() -> None:
            (now[0],) = simulate(now[0], box.potential, integrator, steps, every=steps, skin=box.skin)

        return clocked(work)

    return Program(float(found.energy), found.forces.double(), run)


def in_openmm(box: Liquid) -> Program:
    """OpenMM's CPU platform, LangevinMiddle, from what ``to_openmm`` gives."""
    import openmm as mm
    from openmm import unit

    made, _ = to_openmm(box.potential, double(box.state.system))
    integrator = mm.LangevinMiddleIntegrator(box.kT / units.kelvin, FRICTION * units.ps, box.dt / units.ps)
    context = mm.Context(made, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(positions_nm(box.state.system))
    context.setVelocities(box.state.velocities.double().numpy() * LENGTH * units.ps)
    got = context.getState(getEnergy=True, getForces=True)
    energy = got.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / ENERGY
    forces = got.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer) * LENGTH / ENERGY
    step = context.getIntegrator().step  # through the context, which an integrator alone would not keep alive
    return Program(float(energy), torch.tensor(np.array(forces)), lambda steps: clocked(lambda: (step(steps), context)))


@contextmanager
def in_lammps(box: Liquid) -> Iterator[Program]:
    """LAMMPS on the files of ``to_lammps``, velocity Verlet with Langevin forces; its own clock of the loop."""
    with TemporaryDirectory() as name:
        once = Path(name) / "once"
        path = to_lammps(box.potential, double(box.state.system), once, run=Run(kT=box.kT, dt=box.dt, friction=FRICTION, steps=0))
        asked = "thermo_style custom pe\nthermo_modify format float %.12g\nrun 0\n"
        asked += "write_dump all custom forces.txt id fx fy fz modify sort id format float %.12g\nfix bath"
        path.write_text(path.read_text().replace("fix bath", asked, 1))
        run_lammps(once)
        log = (once / "log.lammps").read_text()
        energy = float(log.split("PotEng", 1)[1].split()[0])
        forces = np.loadtxt((once / "forces.txt").read_text().splitlines()[9:])[:, 1:]

        def run(steps: int) -> float:
            folder = Path(name) / "run"
            shutil.rmtree(folder, ignore_errors=True)
            todo = Run(kT=box.kT, dt=box.dt, friction=FRICTION, steps=steps, every=steps)
            to_lammps(box.potential, double(box.state.system), folder, run=todo)
            return run_lammps(folder)

        yield Program(energy, torch.tensor(forces), run)


def double(system: System) -> System:
    """The same in double precision."""
    return system.to(torch.float64)


def lines(box: Liquid, steps: int, repeats: int) -> Iterator[dict[str, Any]]:
    """One line of the table per program."""
    with in_lammps(box) as lammps:
        programs = {"mlmd": in_mlmd(box), "OpenMM CPU": in_openmm(box), "LAMMPS": lammps}
        times: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(repeats + 1):
            for name, program in programs.items():
                seconds = program.run(steps) / steps
                if turn:
                    times[name].append(seconds)
        ours, n = programs["mlmd"], len(box.state.system)
        scale = float(lammps.forces.square().mean().sqrt())
        rates = {name: 1 / float(np.median(t)) for name, t in times.items()}
        for name, program in programs.items():
            yield {
                "liquid": box.name,
                "program": name,
                "energy, meV/bead": f"{1e3 * program.energy / n:.5f}",
                "max abs dF to LAMMPS / rms F": f"{float((program.forces - lammps.forces).abs().max()) / scale:.1e}",
                "steps/s": rates[name],
                "ns/day": rates[name] * box.dt * 86400 / units.ns,
                "mlmd is faster by": rates["mlmd"] / rates[name] if program is not ours else None,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=Path, help="file of benchmarks/ethane.py with the values of a fitted pair potential")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    boxes = [
        liquid("ethane", 2, cutoff=10.0, width=0.1, dt=4.0, skin=1.5, values=args.values),
        liquid("tetracosane", 8, cutoff=12.0, width=0.2, dt=10.0, skin=2.0),
    ]
    rows = []
    for box in boxes:
        for row in lines(box, args.steps, args.repeats):
            rows.append(row)
            print(row, flush=True)
    notes = (
        f"Langevin dynamics at friction 1/ps, one thread, CPU time, median of {args.repeats} runs of {args.steps} steps, programs in turns, list "
        "building included. Splines of pairs, harmonic bonds and angles and cosines of dihedrals, each program with what the export "
        "gives it: OpenMM a formula of its CPU platform (single precision), LAMMPS tables (double precision, skin 2 A); mlmd in single "
        f"precision, skin {boxes[0].skin:g} and {boxes[1].skin:g} A. Ethane: two beads, cutoff 10 A, 184.5 K, 4 fs; tetracosane: eight beads, "
        "cutoff 12 A, 10 fs, pairs by Boltzmann inversion, not refined: a matter of speed here, not of structure."
    )
    command = "python benchmarks/deployed_liquid.py" + (f" --values {args.values}" if args.values else "")
    record("deployed_liquid", rows, command, notes)


if __name__ == "__main__":
    main()
