"""Kinetics of liquid ethane: two published beads per molecule (TraPPE united atoms) beside the atoms (OPLS-AA), and the friction between them.

    python benchmarks/liquid_kinetics.py [--steps 8000] [--rounds 2] [--seed 0]

The reference is the trajectory that ships, mapped to the two CH3 groups.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch
from record import record

from mlmd import datasets, units
from mlmd.analysis import compare_kinetics
from mlmd.cg import mapping
from mlmd.cg.friction import Settings, Target, fit_friction
from mlmd.datasets.trappe import BOND, LENNARD_JONES, MASS, METHYL
from mlmd.frames import Frames
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.observables import Diffusion
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.compose import Potential
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System

DT, EVERY, CUTOFF, FRICTION = 4.0, 25, 9.0, 0.1 / units.ps
WINDOW = (1500.0, 3800.0)  # fs

NOTES = """\
OPLS-AA, 125 molecules, 184.5 K, 0.540 g/cm^3, friction 0.1/ps, the 417 frames that ship (225 ps, one every 0.54 ps), beads at the
centres of mass of the CH3 groups. TraPPE-UA (Martin and Siepmann, J. Phys. Chem. B 102, 2569 (1998)) in the same box at the same
temperature and friction, one run from the last frame of the reference, cutoff 9 A switched off from 8.1 A, a harmonic bond in place of the
rigid one: a model fitted to vapour-liquid equilibria, not to this reference, and its CH3 sites are nearer to each other (1.54 A) than the
centres of mass. Blocks: stretches of each trajectory (8 unless the command says otherwise); D over lags of 1.5 to 3.8 ps; tau is the integral of C1 of the bond, by trapezoids:
the 0.54 ps between frames of the reference make its tau too long by some 2 %."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=2, help="of the fit of the friction, 0 to leave it out")
    parser.add_argument("--blocks", type=int, default=8, help="stretches of each trajectory, for the errors")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    atoms = datasets.load("ethane")
    reference = mapping.sequence(atoms, 2).apply(atoms)
    g = torch.Generator().manual_seed(args.seed)
    law, start = model(), beads(reference)
    result = compare_kinetics(reference, simulated(reference, law, start, args.steps, g), window=WINDOW, n_blocks=args.blocks)
    said = ["Notes of the comparison: " + ("; ".join(result.notes) or "none") + "."]
    if args.rounds:
        said += ["", "Friction fitted to D:", "", *fitted(start, law, result.reference.diffusion, args, g)]
    command = "python benchmarks/liquid_kinetics.py " + " ".join(sys.argv[1:])
    record("liquid_kinetics_ethane", result.rows(), command.strip(), "\n".join([NOTES, "", *said]))


def fitted(start: System, law: Potential, d: Diffusion, args: argparse.Namespace, g: torch.Generator) -> Iterator[str]:
    """The rounds of the fit in words."""
    kT = datasets.load("ethane").kT or 0.0
    settings = Settings(DT, kT, 1 / units.ps, args.steps, 500, EVERY, WINDOW, args.rounds, 2, n_blocks=args.blocks)
    for log in fit_friction(start, law, Target(d.value, d.error), settings, g):
        yield (
            f"friction {log.friction * units.ps:.3g}/ps: D = {log.diffusion.value * 1e4:.3g} +- {log.diffusion.error * 1e4:.1g}e-9 m^2/s, "
            f"estimate {log.estimate * units.ps:.3g} +- {log.error * units.ps:.2g}/ps, converged: {log.converged}"
        )


def model() -> Potential:
    """TraPPE-UA ethane."""
    sigma, epsilon = LENNARD_JONES[METHYL]
    pairs = Excluding(LennardJones(epsilon * units.kelvin, sigma, CUTOFF), [(0, 1)], size=2)
    length, stiffness = BOND
    bond = HarmonicBonds([0], torch.tensor([stiffness * units.kelvin]), torch.tensor([length]))
    return accelerated(pairs + Bonded(InternalCoordinates(2, torch.tensor([[0, 1]])), [bond]))


def beads(reference: Frames) -> System:
    """The last frame of the reference with molecules as long as the model's, masses of CH3."""
    last = reference.system(len(reference) - 1)
    x = last.positions.unflatten(0, (-1, 2)).double()
    middle, along = x.mean(1, keepdim=True), torch.nn.functional.normalize(x[:, 1:] - x[:, :1], dim=-1)
    ends = middle + 0.5 * BOND[0] * torch.cat([-along, along], 1)
    return System.single(ends.reshape(-1, 3), masses=[MASS[METHYL] * units.amu] * len(last), cell=last.cell[0].double())


def simulated(reference: Frames, law: Potential, start: System, steps: int, g: torch.Generator) -> Frames:
    """A run at the reference's temperature and friction, after a sixth of it to settle."""
    kT = float(reference.kT or 0)
    state = rest(start, thermal_velocities(start, kT, g))
    kept = list(simulate(state, law, Langevin(DT, kT, FRICTION), steps * 7 // 6, every=EVERY, generator=g))[steps // 6 // EVERY :]
    x = torch.stack([s.system.positions for s in kept])
    time = DT * EVERY * torch.arange(len(x), dtype=torch.float64)
    cell = start.cell.expand(len(x), 3, 3)
    return Frames(x, reference.topology, cell=cell, time=time, masses=start.masses, types=start.types, kT=kT)


if __name__ == "__main__":
    main()
