"""Minimisers: evaluations and time to relax shaken Lennard-Jones clusters, all in one batch here and one by one with ASE.

python benchmarks/relax_speed.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.optimize import BFGS
from ase.optimize import FIRE as AseFIRE
from ase.optimize import LBFGS as AseLBFGS
from record import record

from mlmd.md import FIRE, LBFGS, minimise
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

SITES, TOLERANCE, STEPS = 38, 1e-3, 3000


def clusters(count: int, width: float) -> System:
    """Truncated octahedra of 38 particles, every coordinate shaken by a normal of that width (units of sigma)."""
    grid = torch.cartesian_prod(*[torch.arange(-4.0, 5.0)] * 3).double()
    sites = grid[grid.sum(1).long() % 2 != 0]
    x = sites[sites.square().sum(1) < 6] * 1.1 / 2**0.5
    g = torch.Generator().manual_seed(0)
    return System.stack([System.single(x + width * torch.randn(x.shape, generator=g, dtype=x.dtype)) for _ in range(count)])


def ours(method: FIRE | LBFGS, start: System) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Evaluations, energies, convergence, CPU seconds per cluster."""
    law = LennardJones(1.0, 1.0, cutoff=20.0, onset=19.0).double()
    began = time.process_time()
    *_, end = minimise(start, law, method, tolerance=TOLERANCE, steps=STEPS)
    seconds = (time.process_time() - began) / start.n_systems
    return end.steps.numpy() + 1, end.energy.numpy(), end.converged.numpy(), seconds


def theirs(method: Callable[..., object], start: System) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The same with ASE and its own Lennard-Jones calculator."""
    found, began = [], time.process_time()
    for x in start.dense().numpy():
        atoms = Atoms(f"Ar{SITES}", positions=x, calculator=AseLennardJones(sigma=1.0, epsilon=1.0, rc=1000.0))
        run = method(atoms, logfile=None)
        done = run.run(fmax=TOLERANCE, steps=STEPS)  # type: ignore[attr-defined]
        found.append((run.nsteps + 1, atoms.get_potential_energy(), done))  # type: ignore[attr-defined]
    seconds = (time.process_time() - began) / len(found)
    n, energy, done = (np.array(column) for column in zip(*found))
    return n, energy, done, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for width in (0.05, 0.12):
        start = clusters(args.count, width)
        measured = {
            "FIRE": ours(FIRE(), start),
            "LBFGS": ours(LBFGS(), start),
            "ase FIRE": theirs(AseFIRE, start),
            "ase LBFGS": theirs(AseLBFGS, start),
            "ase BFGS": theirs(BFGS, start),
        }
        for name, (n, energy, done, seconds) in measured.items():
            share = float(np.mean(energy < -173.928))
            rows.append({"shaken by": width, "method": name, "evaluations": float(np.median(n)), "most": int(n.max()), "converged": f"{int(done.sum())} of {len(done)}", "global minimum": share, "CPU ms/cluster": seconds * 1e3})  # fmt: skip
            print(rows[-1], flush=True)
    notes = (
        f"{args.count} clusters LJ-38 in units of epsilon and sigma, longest force below {TOLERANCE}, at most {STEPS} steps; median and "
        "largest number of evaluations; share that ended in the global minimum. One thread, one run. Here all clusters are one "
        "batch with the force of mlmd; ASE relaxes one after the other with its own Lennard-Jones calculator, so that its time is "
        "mostly that of the calculator: compare evaluations."
    )
    record("relax-speed", rows, "python benchmarks/relax_speed.py", notes)


if __name__ == "__main__":
    main()
