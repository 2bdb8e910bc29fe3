"""Charges in a molten salt: what the damped shifted force misses of the Ewald sum, and what the Ewald sum costs beside torch-pme.

    python benchmarks/charges.py

The melt: 512 ions of charge +1 and -1 with soft cores at 1400 K and 0.03 ions per A^3, made by Langevin dynamics; three snapshots.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from record import record
from torch import Tensor

from mlmd import units
from mlmd.forces import Evaluation, energy_forces
from mlmd.md import Langevin, rest, simulate, thermal_velocities
from mlmd.neighbors import neighbors
from mlmd.potentials.coulomb import ChargePotential, CoulombDSF
from mlmd.potentials.ewald import Ewald
from mlmd.potentials.pair import SoftSphere
from mlmd.system import System


def melt(steps: int, snapshots: int) -> list[System]:
    """Snapshots of the melt, started from a crystal of 4 x 4 x 4 cells."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.arange(8)] * 3)
    edge = (512 / 0.03) ** (1 / 3)
    x = edge / 8 * grid.double()
    masses = torch.full((512,), 29.0 * units.amu, dtype=torch.float64)
    system = System.single(x, masses=masses, charges=(1.0 - 2.0 * (grid.sum(1) % 2)).double(), cell=edge)
    kT = 1400 * units.kelvin
    potential = SoftSphere(0.46, 2.6, cutoff=7.0) + CoulombDSF(10.0, 0.2)
    state = rest(system, thermal_velocities(system, 2 * kT, generator))
    run = simulate(state, potential, Langevin(3.0, kT, 5 / units.ps), steps * snapshots, every=steps, generator=generator)
    return [s.system for s in run]


def evaluate(potential: ChargePotential, system: System) -> Evaluation:
    """Energy and forces, without a graph."""
    with torch.no_grad():
        return energy_forces(potential, system, neighbors(system, potential.cutoff))


def accuracy(snapshots: list[System]) -> list[dict[str, Any]]:
    """Deviation of the damped shifted force from a converged Ewald sum."""
    exact = [evaluate(Ewald(9.0, accuracy=1e-9), s) for s in snapshots]
    rows = []
    for cutoff in (6.0, 9.0, 12.0):
        for alpha in (0.0, 0.1, 0.2, 0.3):
            found = [evaluate(CoulombDSF(cutoff, alpha), s) for s in snapshots]
            energy = [float((a.energy - b.energy) / b.energy.abs()) for a, b in zip(found, exact)]
            forces = [float((a.forces - b.forces).norm() / b.forces.norm()) for a, b in zip(found, exact)]
            rows.append(
                {
                    "cutoff / A": cutoff,
                    "alpha A": alpha,
                    "(E - E_Ewald)/|E| %": 100 * np.mean(energy),
                    "force %": 100 * np.mean(forces),
                }
            )
    return rows


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return float(np.median(times))


def speed(system: System, repeats: int) -> list[dict[str, Any]]:
    """CPU time of energy and forces at equal cutoff, damping and waves, the list of neighbours given."""
    import torchpme

    charges, rows = system.charges, []
    assert charges is not None
    for cutoff in (6.0, 9.0):
        ours = Ewald(cutoff, accuracy=1e-6)
        pairs = neighbors(system, cutoff)
        half = pairs.half
        # its waves run to pi over this wavelength: the same number as ours
        law = torchpme.CoulombPotential(smearing=1.0 / (math.sqrt(2.0) * ours.alpha))
        peer = torchpme.EwaldCalculator(law, lr_wavelength=math.pi / ours.k_max).double()

        def theirs(peer: Any = peer, half: Any = half) -> tuple[float, Tensor]:
            x = system.positions.clone().requires_grad_()
            v = peer(charges[:, None], system.cell[0], x, half.index.T, half.distances(system.at(x)))
            energy = units.coulomb_constant * (v[:, 0] * charges).sum()
            return float(energy.detach()), -torch.autograd.grad(energy, x)[0]

        def mine(ours: Ewald = ours, pairs: Any = pairs) -> Evaluation:
            with torch.no_grad():
                return energy_forces(ours, system, pairs)

        peers, own = theirs(), mine()
        rows.append(
            {
                "cutoff / A": cutoff,
                "waves": math.prod(2 * n + 1 for n in ours._grid(system)) // 2,
                "mlmd / ms": 1e3 * seconds(mine, repeats),
                "torch-pme / ms": 1e3 * seconds(theirs, repeats),
                "relative difference of E": abs(peers[0] / float(own.energy) - 1),
                "of forces": float((peers[1] - own.forces).norm() / own.forces.norm()),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=500, help="between snapshots of the melt, 3 fs each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    snapshots = melt(args.steps, 4)[1:]
    record(
        "charges_dsf", accuracy(snapshots), "python benchmarks/charges.py", "Mean of three snapshots of a molten salt, 512 ions."
    )
    notes = (
        "Energy and forces of 512 ions in float64, accuracy 1e-6; median CPU time at one thread, the neighbour list given. "
        "Same damping and range of waves in both; `waves` counts one of k and -k."
    )
    record("charges_speed", speed(snapshots[-1], args.repeats), "python benchmarks/charges.py", notes)


if __name__ == "__main__":
    main()
