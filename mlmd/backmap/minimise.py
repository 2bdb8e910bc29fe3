"""A short minimisation of backmapped structures under their atomistic force field, by OpenMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mlmd import units

if TYPE_CHECKING:
    import openmm


class Minimised(NamedTuple):
    """Structures (F, N, 3) in A, and their potential energies (F,) in eV before and after."""

    positions: Tensor
    before: Tensor
    after: Tensor


def minimise(x: Tensor, system: openmm.System, *, steps: int = 100, cell: Tensor | None = None) -> Minimised:
    """Relax every structure by at most ``steps`` iterations of L-BFGS in OpenMM.

    Args:
        x: (F, N, 3) in A. system: of the same N particles, in their order. cell: (F, 3, 3) in A for a periodic system.

    Raises:
        ValueError: for another number of particles. ImportError: without OpenMM.
    """
    import openmm as mm

    n = system.getNumParticles()
    if x.ndim != 3 or x.shape[1:] != (n, 3):
        raise ValueError(f"x has shape {tuple(x.shape)}, the system {n} particles: give structures (F, {n}, 3) of it")
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    out, before, after = [], [], []
    for k in range(len(x)):
        if cell is not None:
            context.setPeriodicBoxVectors(*(cell[k].double() / 10).tolist())
        context.setPositions((x[k].double() / 10).tolist())
        before.append(_energy(context))
        mm.LocalEnergyMinimizer.minimize(context, 10.0, steps)
        after.append(_energy(context))
        relaxed = context.getState(getPositions=True).getPositions(asNumpy=True)._value
        out.append(torch.as_tensor(relaxed * 10, dtype=x.dtype))
    return Minimised(torch.stack(out), torch.tensor(before), torch.tensor(after))


def _energy(context: Any) -> float:
    return float(context.getState(getEnergy=True).getPotentialEnergy()._value * units.kJ_mol)
