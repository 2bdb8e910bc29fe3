"""Frames per second of g(r): mlmd beside mdtraj and MDAnalysis, in the same process, taking turns, on one thread.

    python benchmarks/rdf_speed.py [--particles 1000] [--frames 20] [--repeats 5]

Processor time, best of the repeats; N particles at the density of water (0.0334 / A^3), r below 15 A (at most half the box), 200 bins,
all pairs. The largest deviation of g from mdtraj's is printed too: a faster wrong answer would not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from record import record

from mlmd.observables import rdf

DENSITY, BINS = 0.0334, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n in args.particles:
        rows += compare(n, max(2, args.frames * min(1, 1000 // n) or args.frames // 10), args.repeats)
    report(rows, f"python benchmarks/rdf_speed.py --frames {args.frames} --repeats {args.repeats}")


def compare(n: int, frames: int, repeats: int) -> list[dict]:
    edge = (n / DENSITY) ** (1 / 3)
    r_max = min(15.0, edge / 2 * 0.999)
    x = np.random.default_rng(0).random((frames, n, 3)).astype(np.float32) * np.float32(edge)
    runs = {"mlmd": ours(x, edge, r_max), "mdtraj": by_mdtraj(x, edge, r_max), "MDAnalysis": by_mdanalysis(x, edge, r_max)}
    g = {name: run() for name, run in runs.items()}  # also the warm-up
    best = dict.fromkeys(runs, np.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return [
        {
            "particles": n,
            "frames": frames,
            "package": name,
            "frames/s": frames / best[name],
            "times mdtraj": best["mdtraj"] / best[name],
            "largest |g - g(mdtraj)| beyond 2 A": float(np.abs(g[name] - g["mdtraj"])[int(2 / r_max * BINS) :].max()),
        }
        for name in runs
    ]


def ours(x: np.ndarray, edge: float, r_max: float) -> Callable[[], np.ndarray]:
    positions, cell = torch.from_numpy(x), torch.eye(3) * edge
    return lambda: rdf(positions, cell, r_max=r_max, bins=BINS).g


def by_mdtraj(x: np.ndarray, edge: float, r_max: float) -> Callable[[], np.ndarray]:
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(x.shape[1]):
        topology.add_atom("Ar", mdtraj.element.argon, residue)
    box = np.full((len(x), 3), edge / 10)
    trajectory = mdtraj.Trajectory(x / 10, topology, unitcell_lengths=box, unitcell_angles=np.full((len(x), 3), 90.0))
    pairs = topology.select_pairs("all", "all")
    return lambda: mdtraj.compute_rdf(trajectory, pairs, r_range=(0, r_max / 10), n_bins=BINS)[1]


def by_mdanalysis(x: np.ndarray, edge: float, r_max: float) -> Callable[[], np.ndarray]:
    import MDAnalysis
    from MDAnalysis.analysis.rdf import InterRDF

    universe = MDAnalysis.Universe.empty(x.shape[1], trajectory=True)
    universe.load_new(x, dimensions=np.array([edge, edge, edge, 90, 90, 90], dtype=np.float32))
    atoms = universe.atoms
    # a group with itself counts every particle with itself, which is excluded by identical blocks of one
    return lambda: InterRDF(atoms, atoms, nbins=BINS, range=(0, r_max), exclusion_block=(1, 1)).run().results.rdf


def report(rows: list[dict], command: str) -> None:
    notes = f"One thread, processor time, best of the repeats, packages take turns; {BINS} bins, r below 15 A or half the box, all pairs."
    record("rdf_speed", rows, command, notes)


if __name__ == "__main__":
    main()
