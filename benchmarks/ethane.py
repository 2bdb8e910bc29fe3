"""Liquid ethane as two beads per molecule: structure-based pair potentials on top of a bonded term, beside the atoms and in a box eight times as large.

    python benchmarks/ethane.py [--methods IBI "relative entropy"] [--seeds 0 1 2]

The reference is the trajectory that ships. Finished runs are kept in --folder and not made again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keep import kept
from record import markdown, record

from mlmd import datasets, units
from mlmd.analysis import compare_kinetics
from mlmd.cg import autoencoder, mapping
from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from mlmd.cg.liquid_molecules import LiquidMolecules, centre_rdf
from mlmd.cg.liquid_sampler import LiquidSampler, PairCounter
from mlmd.cg.pair_relative_entropy import PairRelativeEntropy
from mlmd.cg.structure_loop import Correction, PressureGoal, refine_pairs
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.cg.target_rdf import TargetRDF
from mlmd.frames import Frames
from mlmd.md import Langevin, enlarged, half_step_kT, simulate
from mlmd.md.state import State
from mlmd.observables.blocks import block_mean
from mlmd.observables.histogram import density, overlap
from mlmd.observables.rdf import RDF

CUTOFF, R_MAX, WIDTH = 10.0, 11.2, 0.1  # A
COMPARED = 3.0  # A; from here to R_MAX
DT, EVERY, EQUILIBRATION = 4.0, 25, 500
SAVE, SETTLE = 25, 1000  # steps, of the runs that are judged
FRICTION = {"sampling": 1 / units.ps, "settling": 5 / units.ps, "structure": 2 / units.ps, "kinetics": 0.1 / units.ps}
WINDOW = (1500.0, 3800.0)  # fs, of the fit of D
BLOCKS = 5
WANTED = PressureGoal(1.0 * units.bar, within=50 * units.bar)
BINS = round(R_MAX / WIDTH)


METHODS: dict[str, Callable[[float], Correction]] = {
    "IBI": IterativeBoltzmannInversion,
    "relative entropy": lambda kT: PairRelativeEntropy(kT, step=0.8),
    "IBI, 1 bar": lambda kT: IterativeBoltzmannInversion(kT, pressure=WANTED.value),
}


@cache
def reference() -> Frames:
    """The atoms as two beads of one type."""
    atoms = datasets.load("ethane")
    learned = autoencoder.learn(atoms[:100], 2, rho=1e-4 / units.kcal_mol**2, seed=0, restarts=8, steps=300).mapping
    if not bool((learned.assignment == mapping.sequence(atoms, 2).assignment).all()):
        raise SystemExit("the learned map is not that of the CH3 groups")
    return with_equivalent_types(learned, atoms).apply(atoms)


@cache
def molecules() -> LiquidMolecules:
    """The bond, by Boltzmann inversion; its pair is left out."""
    return LiquidMolecules.of(reference())


@cache
def target() -> TargetRDF:
    """g(r) of beads of different molecules."""
    return molecules().target(reference(), r_max=R_MAX, bins=BINS)


def fitted(name: str, seed: int, steps: int, tolerance: float, iterations: int, values: list | None) -> dict[str, Any]:
    """One method from the Boltzmann inversion, or from the values of another method, until it ends."""
    frames = reference()
    basis, kT = target().basis(CUTOFF), float(frames.kT or 0)
    sampler = LiquidSampler(
        frames.system(len(frames) - 1), target(), basis, kT=kT, dt=DT, friction=FRICTION["sampling"], molecules=molecules(),
        steps=steps, every=EVERY, equilibration=EQUILIBRATION, seed=seed,
    )  # fmt: skip
    method, first = METHODS[name](kT), boltzmann_inversion(target(), basis, kT) if values is None else torch.tensor(values)
    start, best, course = time.process_time(), None, list[float]()
    goal = WANTED if values is not None else None
    for log in refine_pairs(method, sampler, first, tolerance=tolerance, iterations=iterations, pressure=goal):
        best = log if best is None or log.deviation < best.deviation or values is not None else best
        course.append(log.deviation)
        print(name, seed, log.line(), f"{time.process_time() - start:.0f} s CPU", flush=True)
    assert best is not None
    return {
        "values": best.values.tolist(), "iterations": len(course), "converged": best.converged, "course": course, "cpu": time.process_time() - start,
    }  # fmt: skip


def start_of(repeats: int, seed: int) -> State:
    """The last frame of the reference, ``repeats`` times as long in every direction, with fresh velocities."""
    frames = reference()
    last = frames.system(len(frames) - 1).to(torch.float32)
    return enlarged(last, (repeats,) * 3, float(frames.kT or 0), torch.Generator().manual_seed(seed), bonds=frames.bonds)


def produced(values: list, repeats: int, steps: int, seed: int, aim: str) -> dict[str, Any]:
    """A run of the deployed potential; positions (T, N, 3), potential energy and virial (T,) in eV."""
    basis, kT = target().basis(CUTOFF), float(reference().kT or 0)
    u, state = torch.tensor(values), start_of(repeats, seed)
    law, counter = molecules().potential(basis.law(u)), PairCounter(target(), basis, molecules())
    kept, generator = list[dict[str, Any]](), torch.Generator().manual_seed(seed + 1)
    spent = time.process_time()
    (settled,) = simulate(state, law, Langevin(DT, kT, FRICTION["settling"]), SETTLE, every=SETTLE, generator=generator)
    for now in simulate(settled, law, Langevin(DT, kT, FRICTION[aim]), steps, every=SAVE, generator=generator):
        _, sums, slopes = counter(now.system)
        bonded = float(molecules().bonded(now.system, None).sum().detach())
        pairs, pull = (float((x * u.numpy()).sum()) for x in (sums, slopes))
        kept.append(
            {
                "x": now.system.positions.clone(),
                "energy": pairs + bonded,
                "virial": pull + molecules().virial(now.system),
                "kT": float(half_step_kT(now)[0]),
            }
        )
    return {
        "x": torch.stack([k["x"] for k in kept]).numpy(),
        "energy": np.array([k["energy"] for k in kept]),
        "virial": np.array([k["virial"] for k in kept]),
        "kT": np.array([k["kT"] for k in kept]),
        "cpu": np.array(time.process_time() - spent),
    }


def frames_of(run: dict[str, Any], repeats: int) -> Frames:
    """The same as frames, with the topology of the reference repeated."""
    like = reference()[-1:].enlarged((repeats,) * 3)
    x = torch.from_numpy(run["x"])
    time = DT * SAVE * torch.arange(len(x), dtype=torch.float64)
    assert like.cell is not None
    return Frames(
        x, like.topology, cell=like.cell.expand(len(x), 3, 3), time=time, masses=like.masses, types=like.types, kT=like.kT
    )


def apart(a: RDF, b: RDF) -> dict[str, float]:
    """Mean and largest |dg| over the compared range, and the mean to expect of their errors alone (those of Gaussian numbers)."""
    seen = a.r > COMPARED
    d, noise = (b.g - a.g)[seen], np.hypot(a.error, b.error)[seen]
    return {
        "mean": float(np.abs(d).mean()),
        "shift": float(d.mean()),
        "max": float(np.abs(d).max()),
        "noise": float((2 / np.pi) ** 0.5 * noise.mean()),
    }


def judged(run: dict[str, Any], large: dict[str, Any], slow: dict[str, Any]) -> dict[str, Any]:
    """One row of the table."""
    atoms, small, big = reference(), frames_of(run, 1), frames_of(large, 2)
    beads = [molecules().rdf(f, r_max=R_MAX, bins=BINS, n_blocks=BLOCKS) for f in (atoms, small, big)]
    middles = [centre_rdf(f, r_max=R_MAX, bins=BINS, n_blocks=BLOCKS) for f in (atoms, small)]
    limits = (1.45, 1.95)
    bonds = [density(length(f), bins=60, limits=limits) for f in (atoms, small)]
    kinetic = compare_kinetics(atoms, frames_of(slow, 1), window=WINDOW, n_blocks=BLOCKS)
    energies = [[v / f.n_atoms for v in block_mean(r["energy"], BLOCKS)] for r, f in ((run, small), (large, big))]
    volume = float(torch.linalg.det(atoms.cell[0]))  # type: ignore[index]
    virial = block_mean(run["virial"], BLOCKS)
    g, centre, deployed = apart(*beads[:2]), apart(*middles), apart(*beads[1:])
    turning = kinetic.relaxation["bond C1"]
    return {
        "mean abs dg, beads": g["mean"],
        "its noise": g["noise"],
        "max abs dg": g["max"],
        "mean abs dg, centres": centre["mean"],
        "its noise ": centre["noise"],
        "bond overlap": overlap(*bonds),
        "pressure, bar": (small.n_atoms * float(atoms.kT or 0) / volume - virial[0] / (3 * volume)) / units.bar,
        "+-": virial[1] / (3 * volume) / units.bar,
        "temperature, K": float(run["kT"].mean()) / units.kelvin,
        "D beads / D atoms": kinetic.diffusion.value,
        "+- ": kinetic.diffusion.error,
        "tau atoms / tau beads": turning.value,
        "+-  ": turning.error,
        "energy per bead, meV": energies[0][0] * 1e3,
        "+-   ": energies[0][1] * 1e3,
        "x8: temperature, K": float(large["kT"].mean()) / units.kelvin,
        "x8: energy, meV": energies[1][0] * 1e3,
        "+-    ": energies[1][1] * 1e3,
        "x8: mean abs dg": deployed["mean"],
        "x8: mean dg": deployed["shift"],
        "x8: max abs dg": deployed["max"],
        "x8: noise": deployed["noise"],
        "D window exponent": kinetic.beads.diffusion.exponent,
    }  # fmt: skip


def length(frames: Frames) -> torch.Tensor:
    """(F, M) bond lengths in A."""
    i, j = torch.tensor(frames.bonds).T
    return (frames.positions[:, j] - frames.positions[:, i]).norm(dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=5000, help="of one sample")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--tolerance", type=float, default=0.04, help="of max |dg| in one sample")
    parser.add_argument("--produce", type=int, default=8000, help="steps of the run that is judged")
    parser.add_argument("--kinetics", type=int, default=6000, help="steps of the run whose motion is judged")
    parser.add_argument("--large", type=int, default=2000, help="steps in the box eight times as large")
    parser.add_argument("--folder", type=Path, default=Path("runs/ethane"))
    parser.add_argument("--finished", action="store_true", help="table of the runs found in the folder alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    rows, fits = [], dict[tuple[str, int], dict[str, Any]]()
    for seed in args.seeds:
        for name in args.methods:
            at = str(args.folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}")
            if args.finished and not all(Path(at + end).exists() for end in (".json", "-small.npz", "-large.npz", "-slow.npz")):
                continue
            before = fits["IBI", seed]["values"] if name == "IBI, 1 bar" else None
            fit = kept(
                Path(at + ".json"), lambda n=name, s=seed, v=before: fitted(n, s, args.steps, args.tolerance, args.iterations, v)
            )
            fits[name, seed] = fit
            small = kept(
                Path(at + "-small.npz"), lambda v=fit, s=seed: produced(v["values"], 1, args.produce, 10 * s + 5, "structure")
            )
            large = kept(
                Path(at + "-large.npz"), lambda v=fit, s=seed: produced(v["values"], 2, args.large, 10 * s + 7, "structure")
            )
            slow = kept(
                Path(at + "-slow.npz"), lambda v=fit, s=seed: produced(v["values"], 1, args.kinetics, 10 * s + 6, "kinetics")
            )
            found = {
                "method": name,
                "seed": seed,
                "iterations": str(fit["iterations"]) + ("" if fit["converged"] else " (not converged)"),
            }
            rows.append({**found, "CPU s of the fit": fit["cpu"], **judged(small, large, slow)})
            print(markdown([{"": k, "value": v} for k, v in rows[-1].items()]), flush=True)
    record("ethane", transposed(rows), "python benchmarks/ethane.py " + " ".join(sys.argv[1:]), notes(args))


def notes(args: argparse.Namespace) -> str:
    """What was done, in words."""
    k, r0 = (float(p.detach()) for p in molecules().bonded.laws[0].parameters())  # type: ignore[union-attr]
    return f"""\
Reference: OPLS-AA, 125 molecules, 184.5 K, 0.540 g/cm^3, the {len(reference())} frames that ship (225 ps). Beads: centres of mass of the CH3 groups,
which the map learned from 100 frames (rho = 1e-4) finds; both of one type. Bond: harmonic, k = {k:.3g} eV/A^2, r0 = {r0:.4g} A, by Boltzmann
inversion. Pairs of different molecules: cubic spline with knots every {WIDTH} A, cutoff {CUTOFF:g} A, fitted to their g(r) with the bonds in the simulated
liquid, from the Boltzmann inversion until max |dg| < {args.tolerance:g} in one sample of {args.steps} steps of {DT:g} fs (after {EQUILIBRATION} of equilibration), or
{args.iterations} iterations. "1 bar": Boltzmann iteration with the pressure correction, from the result of IBI, until it is within
{WANTED.within / units.bar:.0f} bar as well; the others were not asked for a pressure (the reference has 1 atm).

Judged in runs of their own: {args.produce} steps in the reference's box and {args.large} in the box of 2 x 2 x 2 (2 000 beads) with a friction of 2/ps,
{args.kinetics} steps with that of the reference (0.1/ps) for the motion, each after {SETTLE} steps with 5/ps; a frame every {DT * SAVE:g} fs. dg: from
{COMPARED:g} to {R_MAX} A (half the edge of the reference's box) in bins of {WIDTH} A; "noise": the mean |dg| that the block errors of both would give.
x8: the large box less the small one. The mean of g over a box is 1 and about one molecule is missing around each, so that g tends to 1 + 1/n at
large r: 1/1000 - 1/125 = -0.007 of the shift is the size of the box, not the potential. D: lags of {WINDOW[0] / 1e3:g} to {WINDOW[1] / 1e3:g} ps. Energy: bonds
and pairs."""


def transposed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per quantity, one column per run."""
    heads = [f"{r['method']}, seed {r['seed']}" for r in rows]
    return [{"quantity": k, **{h: r[k] for h, r in zip(heads, rows)}} for k in list(rows[0])[2:]]


if __name__ == "__main__":
    main()
