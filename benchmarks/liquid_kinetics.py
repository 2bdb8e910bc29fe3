"""Kinetics of liquid ethane: two beads per molecule beside the atoms (OPLS-AA), before and after a friction is fitted to the motion of the atoms.

    python benchmarks/liquid_kinetics.py [--values runs/ethane/IBI-1-bar-0.json]

Beads: TraPPE united atoms as published, and with --values a potential that benchmarks/ethane.py fitted to the structure of this reference.
The reference is the trajectory that ``mlmd data generate ethane`` made, and where there is none the one that ships.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from record import record

from mlmd import datasets, units
from mlmd.analysis import compare_kinetics
from mlmd.analysis.kinetics import Acceleration
from mlmd.cg import mapping
from mlmd.cg.friction import FrictionLog, Settings, Target, fit_friction
from mlmd.datasets.trappe import BOND, LENNARD_JONES, MASS, METHYL
from mlmd.frames import Frames
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.observables import centres, followed, green_kubo, molecules, vacf, without_drift
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.compose import Potential
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System

DT, EVERY, CUTOFF, FRICTION = 4.0, 25, 9.0, 0.1 / units.ps
WINDOW = (1500.0, 3800.0)  # fs
Beads = tuple[Potential, System]  # a model, and where it starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40_000, help="of the runs that are compared, and of a round of the fit")
    parser.add_argument("--rounds", type=int, default=5, help="of the fit of the friction, at most")
    parser.add_argument("--blocks", type=int, default=8, help="stretches of each trajectory, for the errors")
    parser.add_argument("--values", type=Path, help="result of benchmarks/ethane.py: beads fitted to this reference")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, Callable[[], Beads]] = {"TraPPE-UA": trappe}
    if args.values:
        models[f"spline, {args.values.stem}"] = lambda: fitted_beads(args.values)
    target, rows, said = of_velocities(reference(), args.blocks), list[dict[str, Any]](), list[str]()
    for name, make in models.items():
        g = torch.Generator().manual_seed(args.seed)
        beads = make()
        before = compared(beads, FRICTION, args, g)
        rows += lines(name, FRICTION, before)
        said += ["", f"{name}, friction fitted to the D of the velocities of the atoms:"]
        for log in rounds(beads, target, args, g):
            said.append(words(log))
            print(said[-1], flush=True)
        rows += lines(name, log.estimate, compared(beads, log.estimate, args, g))
    of_msd = before.reference.diffusion
    said = [
        f"D of the reference: {target.value * 1e4:.3g} +- {target.error * 1e4:.1g}e-9 m^2/s by the velocities, {of_msd.value * 1e4:.3g} +- "
        f"{of_msd.error * 1e4:.1g}e-9 m^2/s by the mean square displacement.",
        *said,
    ]
    command = "python benchmarks/liquid_kinetics.py " + " ".join(sys.argv[1:])
    record("liquid_kinetics_ethane", rows, command.strip(), "\n".join([notes(args), "", *said]))


@cache
def reference() -> Frames:
    """The atoms mapped to the two CH3 groups."""
    try:
        atoms = datasets.generated("ethane")
    except ValueError:
        atoms = datasets.load("ethane")
    return mapping.sequence(atoms, 2).apply(atoms)


def of_velocities(frames: Frames, n_blocks: int) -> Target:
    """D of the centres of mass by Green and Kubo up to the end of the window; velocities are differences between frames."""
    f = followed(frames)
    assert f.masses is not None and f.time is not None
    x = centres(without_drift(f.positions.double(), f.masses), f.masses, molecules(f))
    frame = float(f.time[1] - f.time[0])
    curve = green_kubo(vacf(x.diff(dim=0) / frame, max_lag=round(WINDOW[1] / frame) + 1, n_blocks=n_blocks), frame)
    return Target(*curve.at(WINDOW[1]))


def compared(beads: Beads, friction: float, args: argparse.Namespace, g: torch.Generator) -> Acceleration:
    """A run at one friction beside the reference."""
    frames, stride = reference(), 2 if len(reference()) > 1000 else 1
    return compare_kinetics(
        frames[::stride], simulated(frames, beads, friction, args.steps, g), window=WINDOW, n_blocks=args.blocks
    )


def lines(name: str, friction: float, result: Acceleration) -> list[dict[str, Any]]:
    """Rows of the table."""
    return [{"beads of": name, "friction, 1/ps": friction * units.ps, **row} for row in result.rows()]


def rounds(beads: Beads, target: Target, args: argparse.Namespace, g: torch.Generator) -> Iterator[FrictionLog]:
    """The fit of the friction."""
    law, start = beads
    kT = float(reference().kT or 0)
    settings = Settings(DT, kT, 0.5 / units.ps, args.steps, 1000, EVERY, WINDOW, args.rounds, 2, n_blocks=args.blocks)
    return fit_friction(start, law, target, settings, g)


def words(log: FrictionLog) -> str:
    """A round of the fit."""
    return (
        f"friction {log.friction * units.ps:.3g}/ps: D = {log.diffusion.value * 1e4:.3g} +- {log.diffusion.error * 1e4:.1g}e-9 m^2/s, "
        f"estimate {log.estimate * units.ps:.3g} +- {log.error * units.ps:.2g}/ps, converged: {log.converged}"
    )


def notes(args: argparse.Namespace) -> str:
    """What was done."""
    frames = reference()
    assert frames.time is not None
    return f"""\
OPLS-AA, 125 molecules, 184.5 K, 0.540 g/cm^3, friction 0.1/ps, {len(frames)} frames of {float(frames.time[-1]) / 1000:.0f} ps, beads at the
centres of mass of the CH3 groups. TraPPE-UA (Martin and Siepmann, J. Phys. Chem. B 102, 2569 (1998)) in the same box at the same
temperature, cutoff 9 A switched off from 8.1 A, a harmonic bond in place of the rigid one: a model fitted to vapour-liquid equilibria, not
to this reference, and its CH3 sites are nearer to each other (1.54 A) than the centres of mass. Spline: fitted to the g(r) and the pressure
of this reference by benchmarks/ethane.py. Runs of {args.steps} steps of {DT:g} fs after a sixth of it to settle, {args.blocks} blocks of
time for the errors; D over lags of 1.5 to 3.8 ps; tau is the integral of C1 of the bond. Factor: D of beads by D of atoms, tau of
atoms by tau of beads. First friction: that of the reference; second: the estimate of the fit."""


def trappe() -> Beads:
    """TraPPE-UA ethane on the last frame of the reference."""
    return model(), shortened(reference())


def fitted_beads(path: Path) -> Beads:
    """What benchmarks/ethane.py left in a file, on the same frame."""
    import ethane

    basis, frames = ethane.target().basis(ethane.CUTOFF), reference()
    law = ethane.molecules().potential(basis.law(torch.tensor(json.loads(path.read_text())["values"])))
    return law, ethane.reference().system(0).to(torch.float64).at(frames.system(len(frames) - 1).positions.double())


def model() -> Potential:
    """TraPPE-UA ethane."""
    sigma, epsilon = LENNARD_JONES[METHYL]
    pairs = Excluding(LennardJones(epsilon * units.kelvin, sigma, CUTOFF), [(0, 1)], size=2)
    length, stiffness = BOND
    bond = HarmonicBonds([0], torch.tensor([stiffness * units.kelvin]), torch.tensor([length]))
    return accelerated(pairs + Bonded(InternalCoordinates(2, torch.tensor([[0, 1]])), [bond]))


def shortened(reference: Frames) -> System:
    """The last frame of the reference with molecules as long as the model's, masses of CH3."""
    last = reference.system(len(reference) - 1)
    x = last.positions.unflatten(0, (-1, 2)).double()
    middle, along = x.mean(1, keepdim=True), torch.nn.functional.normalize(x[:, 1:] - x[:, :1], dim=-1)
    ends = middle + 0.5 * BOND[0] * torch.cat([-along, along], 1)
    return System.single(ends.reshape(-1, 3), masses=[MASS[METHYL] * units.amu] * len(last), cell=last.cell[0].double())


def simulated(reference: Frames, beads: Beads, friction: float, steps: int, g: torch.Generator) -> Frames:
    """A run at the reference's temperature, after a sixth of it to settle."""
    (law, start), kT = beads, float(reference.kT or 0)
    state = rest(start, thermal_velocities(start, kT, g))
    kept = list(simulate(state, law, Langevin(DT, kT, friction), steps * 7 // 6, every=EVERY, generator=g))[steps // 6 // EVERY :]
    x = torch.stack([s.system.positions for s in kept])
    time = DT * EVERY * torch.arange(len(x), dtype=torch.float64)
    cell = start.cell.expand(len(x), 3, 3)
    return Frames(x, reference.topology, cell=cell, time=time, masses=start.masses, types=start.types, kT=kT)


if __name__ == "__main__":
    main()
