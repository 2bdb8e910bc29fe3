"""Speed of many replicas of a classical 10-bead chain on one core, list building included, beside OpenMM in the same run.

    python benchmarks/chain_speed.py

Harmonic bonds and angles, Lennard-Jones beyond the second neighbour, Langevin dynamics, float32; replica-steps per second of
process time. OpenMM runs the replicas as one system, far apart from each other.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from record import record

from mlmd.forces import energy_forces
from mlmd.md import Langevin, State, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.accelerated import accelerated
from mlmd.potentials.bonded import Bonded, HarmonicAngles, HarmonicBonds
from mlmd.potentials.internal import InternalCoordinates
from mlmd.potentials.pair import Excluding, LennardJones
from mlmd.system import System

# reduced units as in liquid_speed.py
BEADS, CUTOFF, DT, KT, FRICTION = 10, 2.5, 0.005, 1.0, 1.0
BOND, LENGTH, ANGLE, THETA = 100.0, 1.0, 5.0, 2.0


def potential() -> torch.nn.Module:
    """Bonds, angles and excluded volume of the chain, accelerated."""
    pairs, triples = (
        torch.tensor([[i, i + 1] for i in range(BEADS - 1)]),
        torch.tensor([[i, i + 1, i + 2] for i in range(BEADS - 2)]),
    )
    bonds = HarmonicBonds(range(BEADS - 1), torch.full((BEADS - 1,), BOND), torch.full((BEADS - 1,), LENGTH))
    angles = HarmonicAngles(range(BEADS - 2), torch.full((BEADS - 2,), ANGLE), torch.full((BEADS - 2,), THETA))
    law = Excluding(LennardJones(1.0, 1.0, CUTOFF, onset=CUTOFF), [(int(a), int(b)) for a, b in pairs], size=BEADS, hops=2)
    return law + Bonded(InternalCoordinates(BEADS, pairs, triples), [bonds, angles])


def chains(replicas: int) -> State:
    """Relaxed replicas."""
    zigzag = torch.stack([0.84 * torch.arange(BEADS), 0.54 * (torch.arange(BEADS) % 2), torch.zeros(BEADS)], 1)
    system = System.single(zigzag).replicate(replicas)
    generator = torch.Generator().manual_seed(0)
    state = rest(system, thermal_velocities(system, KT, generator))
    *_, state = simulate(
        state, accelerated(potential()), Langevin(DT, KT, FRICTION), 1000, every=1000, generator=generator, skin=1.0
    )
    return state


def ours(state: State, fast: bool, skin: float) -> Callable[[int], None]:
    """Advances by a number of steps."""
    law, now = accelerated(potential()) if fast else potential(), [state]

    def run(steps: int) -> None:
        (now[0],) = deque(simulate(now[0], law, Langevin(DT, KT, FRICTION), steps, every=steps, skin=skin), maxlen=1)

    return run


def openmm_context(state: State):  # type: ignore[no-untyped-def]
    """All replicas in one open system, 100 sigma apart; sigma = 1 nm, epsilon = 1 kJ/mol, mass 1 u."""
    import openmm as mm

    n, replicas = len(state.system), state.system.n_systems
    system, bonds, angles, pairs = mm.System(), mm.HarmonicBondForce(), mm.HarmonicAngleForce(), mm.NonbondedForce()
    pairs.setNonbondedMethod(mm.NonbondedForce.CutoffNonPeriodic)
    pairs.setCutoffDistance(CUTOFF)
    pairs.setReactionFieldDielectric(1.0)
    for k in range(n):
        system.addParticle(1.0)
        pairs.addParticle(0.0, 1.0, 1.0)
        i = k % BEADS
        if i < BEADS - 1:
            bonds.addBond(k, k + 1, LENGTH, BOND)
            pairs.addException(k, k + 1, 0, 1, 0)
        if i < BEADS - 2:
            angles.addAngle(k, k + 1, k + 2, THETA, ANGLE)
            pairs.addException(k, k + 2, 0, 1, 0)
    for force in (bonds, angles, pairs):
        system.addForce(force)
    context = mm.Context(
        system, mm.LangevinMiddleIntegrator(120.272, FRICTION, DT), mm.Platform.getPlatformByName("CPU"), {"Threads": "1"}
    )
    side = int(np.ceil(replicas ** (1 / 3)))
    place = 100.0 * np.stack(np.unravel_index(np.arange(replicas), (side,) * 3), 1)
    x = state.system.dense().double().numpy()
    x = x - x.mean(1, keepdims=True) + place[:, None]
    context.setPositions(x.reshape(-1, 3))
    context.setVelocities(state.velocities.double().numpy())
    return context


def openmm(state: State) -> Callable[[int], None]:
    """Advances by a number of steps."""
    context = openmm_context(state)
    return lambda steps: context.getIntegrator().step(steps)


def agreement(state: State) -> list[str]:
    """Energy per chain and largest force difference of the same configuration."""
    system = state.system.to(torch.float64)
    exact = energy_forces(potential().double().requires_grad_(False), system, neighbors(system, CUTOFF))
    with torch.no_grad():
        fast = energy_forces(accelerated(potential()), state.system, neighbors(state.system, CUTOFF))
    forces = exact.forces.detach()
    largest = float(forces.abs().max())
    out = [
        f"mlmd float64: E/chain = {float(exact.energy.detach().mean()):.6f}",
        f"mlmd float32, accelerated: E/chain = {float(fast.energy.mean()):.6f}, max |dF| / max |F| = {float((fast.forces - forces).abs().max()) / largest:.1e}",
    ]
    try:
        got = openmm_context(state).getState(getEnergy=True, getForces=True)
        energy, other = got.getPotentialEnergy()._value / system.n_systems, torch.as_tensor(got.getForces(asNumpy=True)._value)
        out.append(f"OpenMM: E/chain = {energy:.6f}, max |dF| / max |F| = {float((other - forces).abs().max()) / largest:.1e}")
    except ImportError:
        print("OpenMM is not installed", file=sys.stderr)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skin", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, notes = [], []
    for replicas, steps in ((100, 600), (1000, 120)):
        state = chains(replicas)
        notes += [f"{replicas} chains: {line}" for line in agreement(state)]
        programs = {"accelerated": ours(state, True, args.skin), "in torch": ours(state, False, args.skin)}
        try:
            programs["OpenMM CPU, packed"] = openmm(state)
        except ImportError:
            print("OpenMM is not installed", file=sys.stderr)
        times: dict[str, list[float]] = {name: [] for name in programs}
        for round_ in range(args.repeats + 1):
            for name, run in programs.items():
                began = time.process_time()
                run(steps)
                if round_:
                    times[name].append((time.process_time() - began) / steps)
        median = {name: float(np.median(t)) for name, t in times.items()}
        rows += [{"chains": replicas, "program": name, "us/step": t * 1e6, "replica-steps/s": replicas / t, "relative to OpenMM": median["OpenMM CPU, packed"] / t if "OpenMM CPU, packed" in median else None} for name, t in median.items()]  # fmt: skip
        print(rows[-len(programs) :], flush=True)
    head = f"One thread, skin {args.skin} sigma, list building included; median of {args.repeats} by CPU time, programs in turns."
    record("chain-speed", rows, "python benchmarks/chain_speed.py", "\n\n".join([head, *notes]))


if __name__ == "__main__":
    main()
