"""A melt of C24H50 as chains of 8 or 12 beads: pairs and bonded terms refined together, judged beside the united atoms.

    python benchmarks/tetracosane.py [--beads 8 12] [--seeds 0 1 2] [--large 0]

The reference is what `mlmd data generate tetracosane --frames 12000` left in the cache, or else the trajectory that ships. Finished runs are
kept in --folder and not made again.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keep import kept
from record import markdown, record
from torch import Tensor

from mlmd import datasets, units
from mlmd.analysis import compare_kinetics
from mlmd.cg import mapping
from mlmd.cg.boltzmann_inversion import IterativeBoltzmannInversion, boltzmann_inversion
from mlmd.cg.bonded_relative_entropy import BondedRelativeEntropy
from mlmd.cg.liquid_bonded import BondedTarget
from mlmd.cg.liquid_molecules import LiquidMolecules, centre_rdf
from mlmd.cg.liquid_sampler import LiquidSampler, Sample
from mlmd.cg.pair_core import KeepingCore, with_core
from mlmd.cg.refine_molecules import refine_molecules
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.cg.target_rdf import TargetRDF
from mlmd.frames import Frames
from mlmd.md import enlarged
from mlmd.observables import radius_of_gyration
from mlmd.observables.blocks import block_labels, block_mean
from mlmd.observables.histogram import Density1D, density, overlap
from mlmd.observables.rdf import RDF
from mlmd.system import System

CHAINS = 32
CUTOFF, R_MAX, WIDTH = 12.0, 14.8, 0.2  # A
COMPARED = 3.0  # A; from here to R_MAX
PAIRS = ((0, 0), (0, 1), (1, 1))
NAMES = {0: "end", 1: "inner"}
DT = {8: 15.0, 12: 10.0}  # fs
SKIN = 2.0  # A
FRICTION = {"sampling": 2 / units.ps, "kinetics": 0.1 / units.ps}
EVERY, SAVE, SETTLE = 25, 50, 1000  # steps
FINE = 4  # times the steps of the first samples
BLOCKS = 10
SHORT, REACH = 3, {8: 7, 12: 6}  # bonds, of the longest distance that is a term of its own: in the first samples, and in the end
STRIDE = 10  # frames of the reference, for everything but motion


@cache
def reference(n: int) -> Frames:
    """The melt as chains of n beads with one type of end and one of inner bead."""
    try:
        atoms = datasets.generated("tetracosane")
    except ValueError:
        atoms = datasets.load("tetracosane")
    atoms = replace(atoms, forces=None)
    return with_equivalent_types(mapping.sequence(atoms, n), atoms, reach=0).apply(atoms)


@cache
def bonded(n: int, reach: int) -> BondedTarget:
    """Densities of bonds, cosines, dihedrals, and of distances over two bonds and more."""
    return BondedTarget.of(reference(n)[::STRIDE], achiral=True, reach=reach)


@cache
def molecules(n: int, hops: int = 3) -> LiquidMolecules:
    """The chain; beads up to three bonds apart do not feel the pair potential."""
    kT = float(reference(n).kT or 0)
    return LiquidMolecules(bonded(n, 1).bonded(bonded(n, 1).inversion(kT)), tuple((k, k + 1) for k in range(n - 1)), n, hops)


@cache
def target(n: int) -> TargetRDF:
    """g(r) of all pairs that feel the pair potential, within a chain too."""
    return molecules(n).target(reference(n)[::STRIDE], r_max=R_MAX, bins=round(R_MAX / WIDTH), types=PAIRS)


def sampler_for(n: int, system: System, *, aim: str, steps: int, every: int, seed: int) -> LiquidSampler:
    """A box of chains of n beads."""
    kT = float(reference(n).kT or 0)
    return LiquidSampler(
        system, target(n), target(n).basis(CUTOFF), kT=kT, dt=DT[n], friction=FRICTION[aim], molecules=molecules(n), steps=steps,
        every=every, equilibration=SETTLE, seed=seed, skin=SKIN,
    )  # fmt: skip


def start_of(n: int, seed: int) -> System:
    """A frame of the reference, another one for every seed, 400 ps apart."""
    frames = reference(n)
    return frames.system(len(frames) - 1 - (seed * 2000) % len(frames))


def fitted(n: int, seed: int, steps: int, tolerance: float, iterations: int) -> dict[str, Any]:
    """Two corrections from short samples, then from longer ones with shorter steps and longer distances."""
    kT, goal, x = float(reference(n).kT or 0), target(n), reference(n)[::STRIDE].positions
    basis = goal.basis(CUTOFF)
    values, coefficients = with_core(boltzmann_inversion(goal, basis, kT), goal, basis), bonded(n, SHORT).inversion(kT)
    system, start, course = start_of(n, seed), time.process_time(), list[float]()
    for length, most, damping, reach in ((steps, 2, 1.0, SHORT), (FINE * steps, iterations, 0.6, REACH[n])):
        terms = bonded(n, reach)
        coefficients += terms.inversion(kT)[len(coefficients) :]  # distances come last, by length, and begin with nothing
        sampler = sampler_for(n, system, aim="sampling", steps=length, every=EVERY, seed=seed)
        pairs = KeepingCore(IterativeBoltzmannInversion(kT, damping=damping))
        chains = BondedRelativeEntropy(terms, x, kT, step=damping)
        logs = refine_molecules(
            pairs, sampler, terms, values, coefficients, bonded=chains, tolerance=tolerance, iterations=most
        )  # fmt: skip
        for log in logs:
            course.append(log.deviation)
            spent = time.process_time() - start
            print(n, seed, log.line(), f"T {log.pairs.sample.temperature:.4f} {spent:.0f} s CPU", flush=True)
        system = sampler.state.system
        values, coefficients = log.pairs.values, log.coefficients
        if not log.converged:  # the corrections that the last sample asks for
            values, coefficients = pairs(log.pairs.sample, goal, basis), chains(coefficients, log.positions)
    return {
        "values": values.tolist(), "coefficients": [c.tolist() for c in coefficients], "course": course,
        "converged": log.converged, "cpu": time.process_time() - start,
    }  # fmt: skip


def reach_of(n: int, fit: dict[str, Any]) -> int:
    """Longest distance among the bonded terms of a result."""
    return next(r for r in range(SHORT, n) if len(bonded(n, r).terms) == len(fit["coefficients"]))


class Watching:
    """Positions, and the energy of the bonded terms, of the snapshots."""

    def __init__(self, potential: Any):
        self.potential, self.x, self.energy = potential, list[Tensor](), list[float]()

    def __call__(self, system: System) -> None:
        self.x.append(system.positions.clone())
        self.energy.append(float(self.potential(system, None).sum().detach()))


def produced(n: int, fit: dict[str, Any], repeats: int, steps: int, seed: int, aim: str) -> dict[str, Any]:
    """A run of the fitted potential: positions (T, N, 3), g(r) with error, pressure, energy in eV."""
    system, generator = start_of(n, seed + 1), torch.Generator().manual_seed(seed)
    kT = float(reference(n).kT or 0)
    if repeats > 1:
        system = enlarged(system, (repeats,) * 3, kT, generator, bonds=reference(n).bonds).system
    sampler = sampler_for(n, system, aim=aim, steps=steps, every=SAVE, seed=100 + seed)
    potential = bonded(n, reach_of(n, fit)).bonded(tuple(torch.tensor(c) for c in fit["coefficients"]))
    sampler.molecules = replace(molecules(n), bonded=potential)
    watching, spent = Watching(potential), time.process_time()
    sample: Sample = sampler.sample(torch.tensor(fit["values"]), watch=watching)
    return {
        "x": torch.stack(watching.x).numpy(), "g": sample.g, "g_error": sample.g_error,
        "energy": (sample.energies + np.array(watching.energy)) / len(system),
        "pressure": np.array([sample.pressure, sample.pressure_error]), "temperature": np.array(sample.temperature),
        "cpu": np.array(time.process_time() - spent),
    }  # fmt: skip


def frames_of(n: int, run: dict[str, Any]) -> Frames:
    """A run in the box of the reference as frames."""
    like = reference(n)[-1:]
    x = torch.from_numpy(run["x"])
    at = DT[n] * SAVE * torch.arange(len(x), dtype=torch.float64)
    assert like.cell is not None
    return replace(like, positions=x, cell=like.cell.expand(len(x), 3, 3), time=at, forces=None, energies=None)


def sizes(n: int, frames: Frames) -> dict[str, tuple[float, float]]:
    """<R^2> and <Rg^2> in A^2 with block errors."""
    x = frames.positions.double().unflatten(1, (CHAINS, n))
    ends = (x[:, :, -1] - x[:, :, 0]).square().sum(-1).mean(1)
    return {"R^2": block_mean(ends, BLOCKS), "Rg^2": block_mean(radius_of_gyration(x).square().mean(1), BLOCKS)}


def within(n: int, frames: Frames) -> dict[str, Tensor]:
    """Samples (F, K) of what no bonded term fixes: distances four and more bonds along the chain, its ends, its size."""
    x = frames.positions.double().unflatten(1, (CHAINS, n))
    i, j = torch.tensor([(i, j) for i in range(n) for j in range(i + 4, n)]).T
    return {
        "pairs over 4 bonds and more": (x[:, :, j] - x[:, :, i]).norm(dim=-1).flatten(1),
        "end to end": (x[:, :, -1] - x[:, :, 0]).norm(dim=-1),
        "radius of gyration": radius_of_gyration(x),
    }


def between(n: int, frames: Frames) -> list[RDF]:
    """g(r) of beads of different chains, per pair of types."""
    bins = round(R_MAX / WIDTH)
    return [molecules(n, n - 1).rdf(frames, r_max=R_MAX, bins=bins, between=p, n_blocks=BLOCKS) for p in PAIRS]


def apart(a: RDF, b: RDF) -> tuple[float, float, float]:
    """Mean |dg| from COMPARED on, what the errors of both alone would give (of Gaussian numbers), and the largest |dg|."""
    seen = a.r > COMPARED
    d, noise = np.abs(b.g - a.g)[seen], np.hypot(a.error, b.error)[seen]
    return float(d.mean()), float((2 / np.pi) ** 0.5 * noise.mean()), float(d.max())


@cache
def atomistic(n: int) -> dict[str, Any]:
    """What the reference is compared by."""
    frames = reference(n)[::STRIDE]
    return {"between": between(n, frames), "centres": centre(frames), "within": within(n, frames), "sizes": sizes(n, frames)}


def centre(frames: Frames) -> RDF:
    """g(r) of centres of mass, in wider bins: there are 32 of them."""
    return centre_rdf(frames, r_max=R_MAX, bins=round(R_MAX / (2 * WIDTH)), n_blocks=BLOCKS)


def density_apart(p: Density1D, q: Density1D) -> tuple[float, float]:
    """Mean |dp| of two densities in units of their mean over the bins, 2 (1 - overlap), and what their errors alone would give."""
    noise = (2 / np.pi) ** 0.5 * (np.hypot(p.error, q.error) * p.widths).sum()
    return 2 * (1 - overlap(p, q)), float(noise)


def densities(a: Tensor, b: Tensor) -> tuple[Density1D, Density1D]:
    """Densities of two sets of samples (F, K) on 24 bins over the range of both, errors from blocks of time."""
    limits = (float(min(a.min(), b.min())), float(max(a.max(), b.max())))

    def one(v: Tensor) -> Density1D:
        labels = np.broadcast_to(block_labels((len(v),), BLOCKS)[:, None], v.shape)
        return density(v, bins=24, limits=limits, labels=labels)

    return one(a), one(b)


def structure(n: int, run: dict[str, Any]) -> dict[str, Any]:
    """Rows of the table that say how like the reference a run is."""
    frames, atoms, out = frames_of(n, run), atomistic(n), dict[str, Any]()
    for (a, b), x, y in zip(PAIRS, atoms["between"], between(n, frames)):
        mean, noise, worst = apart(x, y)
        name = f"{NAMES[a]}-{NAMES[b]}"
        out |= {f"mean abs dg, {name}": mean, f"its noise, {name}": noise, f"max abs dg, {name}": worst}
    mean, noise, _ = apart(atoms["centres"], centre(frames))
    out |= {"mean abs dg, centres of mass": mean, "its noise, centres": noise}
    terms = bonded(n, SHORT)
    compared = dict(zip(terms.names, zip(terms.reference, terms.measured(frames.positions))))
    compared |= {name: densities(atoms["within"][name], values) for name, values in within(n, frames).items()}
    for name, (p, q) in compared.items():
        mean, noise = density_apart(p, q)
        out |= {f"mean abs dp, {name}": mean, f"its noise, {name}": noise}
    for name, (value, error) in sizes(n, frames).items():
        ref, ref_error = atoms["sizes"][name]
        out |= {f"<{name}> / reference": value / ref, f"+- of <{name}>": float(np.hypot(error / ref, value * ref_error / ref**2))}
    bar = run["pressure"] / units.bar
    return out | {
        "pressure, bar": float(bar[0]),
        "+- of pressure": float(bar[1]),
        "T / T of the thermostat": float(run["temperature"]),
    }


def motion(n: int, run: dict[str, Any]) -> dict[str, Any]:
    """Acceleration factors; the box and the friction are those of the reference."""
    slow = compare_kinetics(reference(n)[::5], frames_of(n, run), n_blocks=5)
    out = {"T, slow run": float(run["temperature"]), "D beads / D atoms": slow.diffusion.value, "+- of D": slow.diffusion.error}
    for name, r in slow.relaxation.items():
        out |= {f"tau atoms / tau beads, {name}": r.value, f"+- of tau, {name}": r.error}
    return out


def deployed(n: int, run: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """The large box beside the small one, all pairs that feel the pair potential; energies per bead in meV."""
    seen = target(n).r > COMPARED
    d = (run["g"] - small["g"])[:, seen]
    noise = np.hypot(run["g_error"], small["g_error"])[:, seen]
    out = {f"x8: mean abs dg, {NAMES[a]}-{NAMES[b]}": float(np.abs(row).mean()) for (a, b), row in zip(PAIRS, d)}
    out |= {f"x8: mean dg, {NAMES[a]}-{NAMES[b]}": float(row.mean()) for (a, b), row in zip(PAIRS, d)}
    out |= {f"x8: noise, {NAMES[a]}-{NAMES[b]}": float((2 / np.pi) ** 0.5 * e.mean()) for (a, b), e in zip(PAIRS, noise)}
    for name, r in (("energy", small), ("x8: energy", run)):
        mean, error = block_mean(r["energy"], BLOCKS)
        out |= {f"{name}, meV a bead": mean * 1e3, f"+- of {name}": error * 1e3}
    return out | {"x8: T": float(run["temperature"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beads", type=int, nargs="+", default=[8, 12], choices=sorted(DT))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=8000, help="of a short sample")
    parser.add_argument("--iterations", type=int, default=2, help="from long samples")
    parser.add_argument("--tolerance", type=float, default=0.03, help="of mean |dg| and mean |dp| in one sample")
    parser.add_argument("--produce", type=int, default=60000, help="steps of the run that is judged")
    parser.add_argument("--kinetics", type=int, default=25000, help="steps of the run whose motion is judged")
    parser.add_argument("--moving", type=int, nargs="*", default=[0], help="seeds whose motion is judged")
    parser.add_argument(
        "--large", type=int, nargs="*", default=[0], help="seeds whose potential is run in the box eight times as large"
    )
    parser.add_argument("--large-steps", type=int, default=5000)
    parser.add_argument("--folder", type=Path, default=Path("runs/tetracosane"))
    parser.add_argument("--finished", action="store_true", help="table of the runs found in the folder alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    columns = [c for n in args.beads for seed in args.seeds if (c := column(n, seed, args)) is not None]
    record("tetracosane", transposed(columns), "python benchmarks/tetracosane.py " + " ".join(sys.argv[1:]), notes(args))


def column(n: int, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """All rows of one map and seed; None if the runs are to be found and are not."""
    at = str(args.folder / f"{n}-{seed}")
    if args.finished and not Path(at + "-small.npz").exists():
        return None
    fit = kept(Path(at + ".json"), lambda: fitted(n, seed, args.steps, args.tolerance, args.iterations))
    small = kept(Path(at + "-small.npz"), lambda: produced(n, fit, 1, args.produce, seed, "sampling"))
    ended = f"{len(fit['course'])}" + ("" if fit["converged"] else " (not below the tolerance)")
    out = {
        "map": f"{n} beads, seed {seed}",
        "distances over up to (bonds)": reach_of(n, fit),
        "iterations": ended,
        "CPU s of the fit": fit["cpu"],
    }
    out |= kept(Path(at + "-structure.json"), lambda: structure(n, small))
    slow = Path(at + "-slow.npz")
    if (seed in args.moving and not args.finished) or slow.exists():
        run = kept(slow, lambda: produced(n, fit, 1, args.kinetics, seed, "kinetics"))
        out |= kept(Path(at + "-motion.json"), lambda: motion(n, run))
    large = Path(at + "-large.npz")
    if (seed in args.large and not args.finished) or large.exists():
        out |= deployed(n, kept(large, lambda: produced(n, fit, 2, args.large_steps, seed, "sampling")), small)
    print(markdown([{"": k, "value": v} for k, v in out.items()]), flush=True)
    return out


def transposed(columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per quantity, one column per run."""
    names = list(dict.fromkeys(k for c in columns for k in c if k != "map"))
    return [{"quantity": k, **{c["map"]: c.get(k) for c in columns}} for k in names]


def notes(args: argparse.Namespace) -> str:
    """What was done, in words."""
    n = args.beads[0]
    frames, ref = reference(n), {k: atomistic(k)["sizes"] for k in args.beads}
    span = float(frames.time[-1] - frames.time[0]) / units.ps  # type: ignore[index]
    said = "; ".join(
        f"{k} beads: <R^2> = {v['R^2'][0]:.1f} +- {v['R^2'][1]:.1f}, <Rg^2> = {v['Rg^2'][0]:.2f} +- {v['Rg^2'][1]:.2f} A^2"
        for k, v in ref.items()
    )
    return f"""\
Reference: TraPPE-UA, 32 chains, 500 K, 0.671 g/cm^3, {len(frames)} frames over {span:.0f} ps, about {span / 73:.0f} relaxation times of the end-to-end vector
(73 ps); every {STRIDE}th frame for structure. Of its bead centres, {said}.
Beads: runs of three (8 beads) or two (12 beads) carbons, at their centres of mass; two types, end and inner. Learned maps (liquid_maps_tetracosane)
differ from these: their end beads are one carbon shorter and some inner ones longer.

Terms: bonds, cosines of angles, dihedrals, and distances over two bonds and more (see the table) as cubic splines, one for each
sequence of types (end 0, inner 1); dihedrals fade where an angle is straight and are even. Pairs more than three bonds apart or of different
chains: cubic splines with knots every {WIDTH} A, cutoff {CUTOFF:g} A, one per pair of types. All start from their Boltzmann inversion, distances over several
bonds from nothing. Corrected at once: pairs by Boltzmann iteration, bonded terms by relative entropy (Newton's step for all of them together), twice
from samples of {args.steps} steps with distances over up to {SHORT} bonds, then {args.iterations} times from longer ones ({FINE * args.steps}) with 0.6 of the step, until
mean |dg| and mean |dp| are below {args.tolerance:g}; a correction that misses it is followed by one more that is not sampled. Time step {DT[8]:g} fs for 8 beads,
{DT[12]:g} fs for 12.

Why distances: bonds, angles and dihedrals alone, by Boltzmann iteration, gave 8 beads (seed 0) every density of their own to 0.02 and <R^2>, <Rg^2> to
1.4 and 0.8 %, but mean |dp| = 0.13 for distances over two bonds, 0.17 over three, 0.13 end to end and 0.18 for Rg: a bead's bond is longer where its angle is
open (correlation 0.27 in the melt, 0.00 in that model), so that the chains were too much alike. With distances over two and three bonds: 0.02, 0.03, 0.11
and 0.08, and <R^2> 5 % too small.

Judged in runs of their own from another frame, {args.produce} steps with a friction of 2/ps, {SETTLE} steps to settle. dg: g(r) of beads of different chains, from
{COMPARED:g} A to half the box, bins of {WIDTH} A; "noise" is the mean |dg| that the block errors of both would give. dp: density of a coordinate within chains on 48
bins (24 for sizes and distances over four and more bonds), divided by its mean over them, so that it is 1 on average as g is; mean |dp| = 2 (1 - overlap). R: between the centres of the end beads. Rg: of
equal bead weights. Errors of the ratios are those of both sides. No pressure was asked for (the reference has 1 atm).
Motion: {args.kinetics} steps with the friction of the reference, 0.1/ps. x8: 2 x 2 x 2 boxes, {args.large_steps} steps, beside the small box; all pairs of the pair
potential. The mean of g over a box is 1, and what is missing near a bead makes it larger far away, by about 1/32 - 1/256 more in the small box:
"x8: mean dg" is mostly that, not the potential.

Every mean |dg| and every mean |dp| of bonds, angles, dihedrals and distances is below 0.05, <R^2> and <Rg^2> are within 5 %. The densities of R and Rg
themselves: 0.02 to 0.05 beside a noise of 0.03 to 0.04 (with samples half as long, 0.02 to 0.10)."""


if __name__ == "__main__":
    main()
