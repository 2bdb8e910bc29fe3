"""What the runner costs over a bare loop of steps, and what compiling the whole step gains; one core.

    python benchmarks/runner_speed.py [--compile]

"bare": ``integrator.step`` in a loop, with no look at limits, no reporter, and for the liquid one list that is never renewed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from record import record
from torch import Tensor

from mlmd.forces import Potential, energy_forces
from mlmd.md import Langevin, State, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.nn.invariant import InvariantNet
from mlmd.potentials.bonded import Bonded, FourierDihedrals, HarmonicAngles, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import LennardJones
from mlmd.system import System

KT = 0.0257


@dataclass(frozen=True)
class Work:
    """Something to simulate."""

    name: str
    system: System
    potential: Potential
    dt: float
    steps: int


def chain(beads: int, replicas: int, network: bool) -> Work:
    """A chain of beads with bonds, angles and dihedrals in closed form, or with a network on them."""
    n = torch.arange(beads)
    pairs, triples = torch.stack([n[:-1], n[1:]], 1), torch.stack([n[:-2], n[1:-1], n[2:]], 1)
    quads = torch.stack([n[:-3], n[1:-2], n[2:-1], n[3:]], 1)
    coordinates = InternalCoordinates(beads, pairs, triples, quads)
    b, a, d = len(pairs), len(triples), len(quads)
    laws = [
        HarmonicBonds(range(b), torch.full((b,), 10.0), torch.full((b,), 1.5)),
        HarmonicAngles(range(a), torch.full((a,), 1.0), torch.full((a,), 2.0)),
        FourierDihedrals(range(d), torch.full((d, 2), 0.02), torch.full((d, 2), 0.01)),
    ]
    if network:
        laws.append(
            InvariantNet(b, a, quads[:0], width=64, depth=2) if d == 0 else InvariantNet(b, a, _pairs_of(d), width=64, depth=2)
        )
    zigzag = torch.stack([1.26 * n, 0.8 * (n % 2), 0.1 * n], 1).float()
    system = System.single(zigzag, masses=torch.full((beads,), 1500.0)).replicate(replicas)
    name = f"{replicas} chains of {beads} beads" + (", network 2 x 64" if network else "")
    return Work(name, system, Bonded(coordinates, laws).float(), 2.0, 300)


def _pairs_of(d: int) -> Tensor:
    return torch.stack([torch.arange(d), torch.arange(d)], 1)


def liquid(edge: int) -> Work:
    """A Lennard-Jones liquid, rho* = 0.8."""
    spacing = 3.4 * 0.8 ** (-1 / 3)
    x = spacing * torch.stack(torch.meshgrid(*[torch.arange(float(edge))] * 3, indexing="ij"), -1).reshape(-1, 3)
    system = System.single(x, masses=torch.full((len(x),), 4000.0), cell=[spacing * edge] * 3)
    return Work(f"Lennard-Jones liquid, N = {len(x)}", system, LennardJones(0.0103, 3.4, 8.5).float(), 5.0, 100)


def started(work: Work) -> State:
    """Some steps into the run, so that it moves like the real thing."""
    g = torch.Generator().manual_seed(1)
    start = rest(work.system, thermal_velocities(work.system, KT, g))
    *_, state = simulate(start, work.potential, Langevin(work.dt, KT, 0.01), work.steps, every=work.steps, generator=g)
    return state


@torch.no_grad()
def bare(work: Work, state: State) -> None:
    """Steps and nothing else."""
    integrator = state.owner
    cutoff = work.potential.cutoff
    pairs = neighbors(work.system.at(state.system.positions), cutoff + 1.0) if cutoff > 0 else None
    for _ in range(work.steps):
        state = integrator.step(state, lambda s: energy_forces(work.potential, s, pairs), integrator.noise(state, None))


def run(work: Work, state: State, compile: bool = False) -> None:
    """The same steps through ``simulate``."""
    list(simulate(state, work.potential, state.owner, work.steps, every=work.steps, compile=compile))


def seconds(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median CPU time of every call; the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.process_time()
            call()
            times[name].append(time.process_time() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also compile: takes minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for work in (chain(10, 100, False), chain(10, 1000, False), chain(6, 300, True), liquid(6), liquid(10)):
        state = started(work)
        calls = {"bare": lambda w=work, s=state: bare(w, s), "simulate": lambda w=work, s=state: run(w, s)}
        if args.compile:
            calls["compiled"] = lambda w=work, s=state: run(w, s, compile=True)
        took = {k: v / work.steps for k, v in seconds(calls, args.repeats).items()}
        row = {"work": work.name} | {f"{k}, us/step": 1e6 * v for k, v in took.items()}
        row["simulate / bare"] = took["simulate"] / took["bare"]
        if args.compile:
            row["gain by compiling"] = took["simulate"] / took["compiled"]
        rows.append(row)
        print(rows[-1], flush=True)
    notes = f"BAOAB, float32, one thread, CPU time, median of {args.repeats}, ratios within one run; first compilation not counted."
    record("runner-speed", rows, "python benchmarks/runner_speed.py" + (" --compile" if args.compile else ""), notes)


if __name__ == "__main__":
    main()
