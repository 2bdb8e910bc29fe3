"""Cost of rigid bonds: a time step of free chains and waters with constraints and without.

python benchmarks/constraint_speed.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from record import record
from torch import Tensor, nn

from mlmd import units
from mlmd.md import Constrained, Langevin, RigidBonds, Settle, State, VelocityVerlet, constrain, rest, simulate, thermal_velocities
from mlmd.md.constraints import Constraint
from mlmd.md.integrators import Integrator
from mlmd.system import System

OH, HH = 0.9572, 1.5139


class Free(nn.Module):
    """No forces."""

    cutoff = 0.0

    def forward(self, system: System, pairs: None) -> Tensor:
        return 0.0 * system.positions.square().reshape(system.n_systems, -1).sum(1)


def chains(count: int, n: int) -> tuple[State, Constraint]:
    """Zigzag chains of n beads of 12 amu, bonds 1.5 A, at 300 K."""
    k = torch.arange(n, dtype=torch.float64)
    x = torch.stack([1.3 * k, 0.75 * (k % 2), torch.zeros_like(k)], 1)
    system = System.single(x, masses=torch.full_like(k, 12.0 * units.amu)).replicate(count)
    bonds = RigidBonds.of(system, [(i, i + 1) for i in range(n - 1)])
    return constrain(rest(system, thermal_velocities(system, 300 * units.kelvin)), bonds), bonds


def waters(count: int) -> tuple[State, Settle]:
    """Water molecules in one system, at 300 K."""
    shape = torch.tensor([[0.0, 0.0, 0.0], [HH / 2, (OH**2 - HH**2 / 4) ** 0.5, 0.0], [-HH / 2, (OH**2 - HH**2 / 4) ** 0.5, 0.0]])
    x = (shape.double() + 50 * torch.rand(count, 1, 3, dtype=torch.float64)).reshape(-1, 3)
    system = System.single(x, masses=torch.tensor([15.999, 1.008, 1.008]).double().repeat(count) * units.amu)
    settle = Settle(torch.arange(3 * count).reshape(-1, 3), OH, HH)
    return constrain(rest(system, thermal_velocities(system, 300 * units.kelvin)), settle), settle


def per_step(integrator: Integrator, start: State, repeats: int, steps: int = 50) -> float:
    """Median CPU time of a step, in ms."""
    (state,) = simulate(start, Free(), integrator, 10, every=10)
    times = []
    for _ in range(repeats):
        began = time.process_time()
        (state,) = simulate(state, Free(), integrator, steps, every=steps)
        times.append((time.process_time() - began) / steps)
    return float(np.median(times)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    verlet, langevin = VelocityVerlet(2.0), Langevin(2.0, 300 * units.kelvin, 1 / units.ps)
    cases: list[tuple[str, State, VelocityVerlet | Langevin, Constraint, int]] = []
    for count in (1, 100, 1000):
        start, bonds = chains(count, 10)
        cases.append((f"{count} x 10-bead chain, Verlet", start, verlet, bonds, 9 * count))
        cases.append((f"{count} x 10-bead chain, Langevin", start, langevin, bonds, 9 * count))
    for count in (1, 100, 1000):
        start, settle = waters(count)
        cases.append((f"{count} water, Verlet, SETTLE", start, verlet, settle, 3 * count))
        cases.append((f"{count} water, Verlet, matrix SHAKE", start, verlet, settle.bonds, 3 * count))
    rows = []
    for name, start, integrator, constraints, number in cases:
        free = per_step(integrator, start, args.repeats)
        rigid = per_step(Constrained(integrator, constraints), start, args.repeats)
        rows.append(
            {"work": name, "free ms/step": free, "rigid ms/step": rigid, "us per constraint": (rigid - free) / number * 1e3}
        )
        print(rows[-1], flush=True)
    notes = f"2 fs, 300 K, float64, no forces, one thread; median of {args.repeats} by CPU time; relative tolerance 1e-10."
    record("constraint-speed", rows, "python benchmarks/constraint_speed.py", notes)


if __name__ == "__main__":
    main()
